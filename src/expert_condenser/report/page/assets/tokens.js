// The tokens of fixed rows, coloured by the expert that took them.
const TOKENS = DATA.tokens.map((run) => ({ ...run, moments: run.moments.map((each) => ({ ...each, experts: unpacked(each.experts) })) }));

// Light grounds under black letters in both themes; neighbours in number are far apart in hue.
const groundOf = (expert) => `hsl(${(expert * 137.508) % 360} 75% ${expert % 2 ? 84 : 76}%)`;

if (TOKENS.length) {
  const control = (name) => byId(`tokens-${name}`);
  const chosen = () => TOKENS[control("run").value];

  function fillControls() {
    const run = chosen(), slots = Math.max(...run.moments.map((each) => each.experts.shape[2]));
    setOptions(control("moment"), run.moments.map((each) => each.name));
    setOptions(control("layer"), run.layers.map(String));
    setOptions(control("rank"), Array.from({ length: slots }, (_, slot) => `${slot + 1} of ${slots}`));
    setOptions(control("row"), Array.from({ length: run.row.at(-1) + 1 }, (_, row) => String(row + 1)));
    const left = run.rows - run.row.at(-1) - 1;
    control("note").textContent = (run.hasText ? "" : "There is no tokenizer of this run on the machine that made the page: tokens are shown by their ids. ")
      + (left ? `${left} of ${run.rows} recorded rows are left out, to keep the page small.` : "");
  }

  function drawTokens() {
    const run = chosen(), { shape: [, layers, slots], values } = run.moments[control("moment").value].experts;
    const layer = Number(control("layer").value), slot = Number(control("rank").value), row = Number(control("row").value);
    const taken = new Map();
    const parts = run.text.flatMap((text, token) => {
      const expert = slot < slots ? values[(token * layers + layer) * slots + slot] - 1 : -1;
      if (run.row[token] !== row) return [];
      taken.set(expert, (taken.get(expert) ?? 0) + 1);
      const part = document.createElement("ruby"), word = document.createElement("span"), number = document.createElement("rt");
      const isCondenser = run.condensers[layer].includes(expert);
      word.className = isCondenser ? "token condenser" : "token";
      word.textContent = text.replaceAll("\n", "⏎");
      if (expert >= 0) word.style.background = groundOf(expert);
      number.textContent = expert < 0 ? "–" : expert;
      part.title = expert < 0 ? "no expert at this rank" : `expert ${expert}${isCondenser ? ", a condenser" : ""}`;
      part.append(word, number);
      return text.includes("\n") ? [part, document.createElement("br")] : [part];
    });
    control("text").replaceChildren(...parts);
    const order = [...taken].sort((a, b) => b[1] - a[1]);
    const name = ([expert, count]) => `${expert < 0 ? "none" : expert} (${count})`;
    control("summary").textContent = `Experts of this row, with their tokens: ${order.slice(0, 12).map(name).join(", ")}${order.length > 12 ? `, and ${order.length - 12} more` : ""}.`;
  }

  control("run").addEventListener("change", fillControls);
  control("form").addEventListener("submit", (event) => event.preventDefault());
  control("form").addEventListener("input", drawTokens);
  fillControls();
  drawTokens();
}

byId("theme").addEventListener("change", applyTheme);
systemTheme.addEventListener("change", applyTheme);
applyTheme();
document.documentElement.dataset.ready = String(Math.round(performance.now()));
