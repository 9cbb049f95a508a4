// Light or dark: as the system has it until a reader chooses; figures are drawn again when it changes.
const systemTheme = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (byId("theme").value || (systemTheme.matches ? "dark" : "light")) === "dark";
const PALETTES = {
  light: ["#0072b2", "#b34700", "#00775a", "#a4407c", "#6b5500", "#5b5bd6", "#1b1f24", "#b00020"],
  dark: ["#56b4e9", "#e69f00", "#2fc69b", "#e08cc0", "#f0e442", "#b4b0ff", "#e6edf3", "#ff8a80"],
};
const DASHES = ["solid", "dash", "dot", "dashdot"];
const SYMBOLS = ["circle", "square", "diamond", "cross", "triangle-up", "triangle-down"];

function applyTheme() {
  document.documentElement.dataset.theme = isDark() ? "dark" : "light";
  for (const [place, redraw] of drawings) if (seen.has(place)) redraw();
}

// A figure is drawn when it comes near the screen, or is printed: a page with forty of them is there at once.
const drawings = new Map();
const seen = new Set();
function see(place) {
  if (seen.has(place)) return;
  seen.add(place);
  watcher.unobserve(place);
  drawings.get(place)();
}
const watcher = new IntersectionObserver((entries) => entries.forEach((each) => each.isIntersecting && see(each.target)), { rootMargin: "400px" });
addEventListener("beforeprint", () => [...drawings.keys()].forEach(see));

function drawWhenSeen(place, redraw) {
  drawings.set(place, redraw);
  watcher.observe(place);
}

// Every curve has a colour and, as not everybody sees colours, a dash and a symbol.
function styled(traces) {
  const palette = PALETTES[isDark() ? "dark" : "light"];
  return traces.map((trace, index) => ({
    ...trace,
    line: { color: palette[index % palette.length], dash: DASHES[Math.floor(index / palette.length + index) % DASHES.length], width: 2, ...trace.line },
    marker: { color: palette[index % palette.length], symbol: SYMBOLS[index % SYMBOLS.length], size: 8, ...trace.marker },
  }));
}

function draw(place, traces, layout) {
  const style = getComputedStyle(document.documentElement);
  const [text, line] = ["--text", "--line"].map((name) => style.getPropertyValue(name).trim());
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true, fixedrange: true };
  const axes = Object.keys(layout).filter((name) => /axis/.test(name));
  const all = Object.fromEntries(["xaxis", "yaxis", ...axes].map((name) => [name, { ...axis, ...layout[name] }]));
  const settings = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: text, family: "system-ui, sans-serif" },
    margin: { l: 50, r: 10, t: 10, b: 45 }, dragmode: false, hovermode: "closest",
    legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, ...layout, ...all,
  };
  place.style.minHeight = "0"; // which kept room for it
  return Plotly.react(place, traces, settings, { displayModeBar: false, responsive: true });
}
