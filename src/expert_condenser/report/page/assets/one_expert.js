// One expert over the steps of every run: its share of the layer, and its bias.
function chooseExpert(layer, expert) {
  byId("one-layer").selectedIndex = layer;
  byId("one-expert").value = expert;
  seen.has(byId("one-plot")) ? drawOne() : see(byId("one-plot"));
}

function drawOne() {
  const layer = byId("one-layer").selectedIndex;
  const experts = EXPERTS[0].counts.shape[2];
  const expert = Math.min(experts - 1, Math.max(0, Math.round(Number(byId("one-expert").value) || 0)));
  const seriesOf = (run) => run.steps.map((_, at) => moment(run, at)[layer][expert]);
  const fits = EXPERTS.filter((run) => run.counts.shape[1] > layer && run.counts.shape[2] > expert);
  const series = fits.map((run) => ({ run, cells: seriesOf(run) }));
  const hasBias = fits.some((run) => run.bias);
  const line = ({ run, cells }, read, more) => ({ type: "scatter", mode: "lines", name: plain(run.name), x: run.steps, y: cells.map(read), ...more });
  const shares = styled(series.map((each) => line(each, (cell) => 100 * cell.share, { legendgroup: each.run.name })));
  const biases = styled(series.map((each) => line(each, (cell) => cell.bias, { xaxis: "x2", yaxis: "y2", legendgroup: each.run.name, showlegend: false })));
  const depth = EXPERTS[0].layers[layer];
  byId("one-caption").textContent = `Expert ${expert} of layer ${depth}`;
  const ends = series.map(({ run, cells }) => `${run.name} from ${percent(cells[0].share)} to ${percent(cells.at(-1).share)}${cells.at(-1).condenser ? ", a condenser" : ""}`);
  byId("one-plot").setAttribute("aria-label", `Share of expert ${expert} of layer ${depth} over steps: ${ends.join("; ")}.`);
  const rows = hasBias ? { grid: { rows: 2, columns: 1, pattern: "independent" }, xaxis2: { title: { text: "step" } }, yaxis2: { title: { text: "bias" } } } : {};
  draw(byId("one-plot"), hasBias ? [...shares, ...biases.filter((_, at) => fits[at].bias)] : shares, {
    height: hasBias ? 420 : 300, showlegend: fits.length > 1, xaxis: hasBias ? {} : { title: { text: "step" } }, yaxis: { title: { text: "share, %" }, rangemode: "tozero" }, ...rows });
  if (!byId("one-details").open) return;
  const tables = series.map(({ run, cells }) => tableOf(`${run.name}, expert ${expert} of layer ${depth}`, ["step", "selections", "share", "bias"],
    cells.map((cell, at) => [String(run.steps[at]), String(cell.count), percent(cell.share), cell.bias === null ? "" : cell.bias.toFixed(4)])));
  byId("one-table").replaceChildren(...tables);
}

if (EXPERTS.length) {
  setOptions(byId("one-layer"), EXPERTS[0].layers.map(String));
  byId("one-expert").max = EXPERTS[0].counts.shape[2] - 1;
  const first = EXPERTS[0].condensers.findIndex((ids) => ids.length);
  byId("one-layer").selectedIndex = Math.max(0, first);
  byId("one-expert").value = first < 0 ? 0 : EXPERTS[0].condensers[first][0];
  byId("one-form").addEventListener("submit", (event) => event.preventDefault());
  byId("one-form").addEventListener("input", drawOne);
  byId("one-details").addEventListener("toggle", drawOne);
  drawWhenSeen(byId("one-plot"), drawOne);
}
