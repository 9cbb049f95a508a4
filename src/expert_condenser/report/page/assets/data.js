"use strict";
// The page's data, and its packed numbers as typed arrays. Texts reach the page by textContent alone.
const byId = (id) => document.getElementById(id);
const DATA = JSON.parse(byId("data").textContent);
const TYPES = { uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, int16: Int16Array, float64: Float64Array };

function unpacked(packed) {
  const text = atob(packed.data), bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at); // Uint8Array.from takes ten times as long
  return { shape: packed.shape, step: packed.step || 1, values: new TYPES[packed.type](bytes.buffer) };
}

// Plotly reads names and hover texts as HTML.
const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

function setOptions(select, names) {
  const before = select.selectedIndex;
  select.replaceChildren(...names.map((name, index) => new Option(name, index)));
  select.selectedIndex = before < 0 || before >= names.length ? 0 : before;
}

function tableOf(caption, titles, rows) {
  const table = document.createElement("table");
  table.createCaption().append(Object.assign(document.createElement("span"), { textContent: caption }));
  const add = (row, tag, text, scope) => {
    const cell = document.createElement(tag);
    cell.textContent = text;
    if (scope) cell.scope = scope;
    row.append(cell);
  };
  const head = table.createTHead().insertRow();
  titles.forEach((title) => add(head, "th", title, "col"));
  const body = table.createTBody();
  for (const cells of rows) {
    const row = body.insertRow();
    cells.forEach((cell, index) => (index ? add(row, "td", cell) : add(row, "th", cell, "row")));
  }
  return table;
}
