// The heat map of layers and experts: one run, two side by side, or their difference, at any logged step.
const EXPERTS = DATA.experts.map((run) => ({ ...run, counts: unpacked(run.counts), bias: run.bias && unpacked(run.bias) }));

// Numbers of one run at one moment, [layer][expert]: count, share of the layer, share as a multiple of an even one, bias.
function moment(run, at) {
  const [, layers, experts] = run.counts.shape;
  return Array.from({ length: layers }, (_, layer) => {
    const start = (at * layers + layer) * experts;
    const counts = Array.from(run.counts.values.subarray(start, start + experts));
    const total = counts.reduce((a, b) => a + b, 0) || 1;
    return counts.map((count, expert) => ({
      count, share: count / total, times: (count / total) * experts,
      bias: run.bias ? run.bias.values[start + expert] * run.bias.step : null,
      condenser: run.steps[at] > run.condensersFrom && run.condensers[layer].includes(expert),
    }));
  });
}

// The last moment of a run that is not later than a step.
const momentAt = (run, step) => Math.max(0, run.steps.findLastIndex((each) => each <= step));
const phaseOf = (run, step) => run.phases.findLast((phase) => phase.start < step)?.name ?? run.phases[0]?.name ?? "";
const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 2 : 1)} %`;

function described(run, layer, expert, cell) {
  const bias = cell.bias === null ? "" : `<br>bias ${cell.bias.toFixed(4)}`;
  const kind = cell.condenser ? "condenser" : "routed expert";
  return `${plain(run.name)}<br>layer ${run.layers[layer]}, expert ${expert}: ${kind}<br>${cell.count} selections, ${percent(cell.share)} (${cell.times.toFixed(2)}× even)${bias}`;
}

if (EXPERTS.length) {
  const control = (name) => byId(`experts-${name}`);
  const chosen = () => EXPERTS[control("run").value];
  const other = () => (control("other").value === "" ? null : EXPERTS[control("other").value]);
  const comparable = () => other() && String(other().counts.shape.slice(1)) === String(chosen().counts.shape.slice(1));
  const isDifference = () => control("view").value === "difference" && comparable();
  const isBias = () => control("measure").value === "bias" && chosen().bias && (!other() || other().bias);

  // The order of the experts of every layer; both maps have that of the first run.
  function orders() {
    const first = moment(chosen(), 0);
    const ids = first.map((row) => row.map((_, expert) => expert));
    return control("order").value === "id" ? ids : ids.map((row, layer) => row.sort((a, b) => first[layer][b].count - first[layer][a].count));
  }

  // A scale that stays while the slider moves.
  function largest(run) {
    if (isBias()) return run.bias.values.reduce((top, value) => Math.max(top, Math.abs(value)), 0) * run.bias.step || 1e-9;
    let top = 1;
    for (let at = 0; at < run.steps.length; at += Math.max(1, Math.floor(run.steps.length / 20)))
      for (const row of moment(run, at)) for (const cell of row) top = Math.max(top, cell.times);
    return top;
  }

  function colorScale(top) {
    if (isDifference() || isBias()) return { colorscale: "RdBu", reversescale: false, zmin: -top, zmax: top, zmid: 0 };
    // The root of the share: most experts are far below the busiest.
    const marks = [0, 0.25, 1, 2, 4, 9, 16, 25, 49].filter((mark) => mark <= top);
    return { colorscale: "Viridis", zmin: 0, zmax: Math.sqrt(top), colorbar: { tickvals: marks.map(Math.sqrt), ticktext: marks.map((mark) => `${mark}×`) } };
  }

  function drawMap(index, run, cells, order, top, difference) {
    const value = (layer, expert) => {
      const cell = cells[layer][expert];
      if (difference) return isBias() ? cell.bias - difference[layer][expert].bias : cell.times - difference[layer][expert].times;
      return isBias() ? cell.bias : Math.sqrt(cell.times);
    };
    const text = order.map((row, layer) => row.map((expert) => {
      const own = described(run, layer, expert, cells[layer][expert]);
      return difference ? `${own}<br>${described(other(), layer, expert, difference[layer][expert])}` : own;
    }));
    const scale = colorScale(top);
    const bar = { thickness: 12, len: 1, title: { text: difference ? "difference" : isBias() ? "bias" : "of even", side: "right" }, ...scale.colorbar };
    const layers = run.layers.map(String);
    const rings = order.flatMap((row, layer) => row.flatMap((expert, x) => (cells[layer][expert].condenser ? [[x, layers[layer]]] : [])));
    const map = { type: "heatmap", z: order.map((row, layer) => row.map((expert) => value(layer, expert))), y: layers, text, hovertemplate: "%{text}<extra></extra>", xgap: 1, ygap: 1, ...scale, colorbar: bar };
    const ring = { type: "scatter", mode: "markers", x: rings.map(([x]) => x), y: rings.map(([, y]) => y), hoverinfo: "skip", marker: { symbol: "circle-open", size: 9, color: isDifference() || isBias() ? "#000" : "#fff", line: { width: 2 } } };
    const height = Math.max(240, Math.min(560, 26 * layers.length + 90));
    const byUsage = control("order").value === "usage";
    const place = control(`map-${index}`);
    draw(place, [map, ring], { height, showlegend: false, margin: { l: 55, r: 10, t: 10, b: 45 },
      xaxis: { title: { text: byUsage ? "experts, by usage at the start" : "expert" }, showgrid: false, zeroline: false },
      yaxis: { title: { text: "layer" }, type: "category", autorange: "reversed", showgrid: false } });
    if (place.dataset.clicks) return;
    place.dataset.clicks = "yes";
    place.on("plotly_click", ({ points: [point] }) => chooseExpert(point.pointIndex[0], orders()[point.pointIndex[0]][point.pointIndex[1]]));
  }

  function summaryOf(run, cells) {
    const every = cells.flatMap((row, layer) => row.map((cell, expert) => ({ ...cell, layer, expert })));
    const top = every.reduce((a, b) => (b.share > a.share ? b : a));
    const unused = every.filter((cell) => !cell.count).length;
    const condensers = every.filter((cell) => cell.condenser).length;
    return `${run.name}: the busiest is expert ${top.expert} of layer ${run.layers[top.layer]} with ${percent(top.share)}; ${unused} of ${every.length} experts are unused, ${condensers} are condensers.`;
  }

  const shown = () => {
    const run = chosen(), step = run.steps[control("step").value];
    return [run, other()].filter(Boolean).map((each) => ({ run: each, cells: moment(each, momentAt(each, step)) }));
  };

  function fillTable() {
    if (!control("details").open) return;
    const tables = shown().map(({ run, cells }) => {
      const write = (cell) => (isBias() ? cell.bias.toFixed(4) : percent(cell.share)) + (cell.condenser ? " condenser" : "");
      return tableOf(`${run.name}, ${isBias() ? "bias" : "share of the layer's selections"}`, ["layer", ...cells[0].map((_, expert) => `expert ${expert}`)],
        cells.map((row, layer) => [String(run.layers[layer]), ...row.map(write)]));
    });
    control("table").replaceChildren(...tables);
  }

  let scaleOf = { key: null, top: 1 };
  function drawExperts() {
    const parts = shown(), run = parts[0].run, step = run.steps[control("step").value], order = orders();
    const key = ["run", "other", "measure", "view"].map((name) => control(name).value).join();
    if (scaleOf.key !== key) scaleOf = { key, top: Math.max(...parts.map((part) => largest(part.run))) };
    const two = parts.length === 2 && !isDifference();
    control("second").hidden = !two;
    control("at").textContent = `${step} of ${run.steps.at(-1)}, ${phaseOf(run, step)}`;
    control("step").setAttribute("aria-valuetext", `step ${step}, ${phaseOf(run, step)}`);
    control("summary").textContent = parts.map((part) => summaryOf(part.run, part.cells)).join(" ");
    const words = isBias() ? "bias" : "usage";
    control("caption-0").textContent = isDifference() ? `${words}: ${run.name} − ${parts[1].run.name}` : `${run.name}: ${words} at step ${step}`;
    control("map-0").setAttribute("aria-label", `Heat map of layers and experts. ${control("caption-0").textContent}. ${control("summary").textContent}`);
    drawMap(0, run, parts[0].cells, order, scaleOf.top, isDifference() ? parts[1].cells : null);
    if (two) {
      const second = parts[1].run, at = second.steps[momentAt(second, step)];
      control("caption-1").textContent = `${second.name}: ${words} at step ${at}`;
      control("map-1").setAttribute("aria-label", `Heat map of layers and experts. ${control("caption-1").textContent}.`);
      drawMap(1, second, parts[1].cells, comparable() ? order : parts[1].cells.map((row) => row.map((_, id) => id)), scaleOf.top, null);
    }
    fillTable();
  }

  function setSteps() {
    control("step").max = chosen().steps.length - 1;
    control("step").value = chosen().steps.length - 1;
  }

  control("run").addEventListener("change", setSteps);
  control("form").addEventListener("submit", (event) => event.preventDefault());
  control("form").addEventListener("input", drawExperts);
  control("details").addEventListener("toggle", fillTable);
  if (EXPERTS.length === 1) for (const name of ["other", "view"]) control(name).parentElement.hidden = true;
  if (!EXPERTS.some((run) => run.bias)) control("measure").parentElement.hidden = true;
  setSteps();
  drawWhenSeen(control("map-0"), drawExperts);
}
