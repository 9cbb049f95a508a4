// Opens pages of `condenser report` and `condenser watch` in a browser: node check.mjs DIR. Screenshots go to DIR, and what is wrong to stdout.
import { readFileSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const folder = process.argv[2];
const VIEWS = {
  light: { colorScheme: "light", viewport: { width: 1280, height: 900 } },
  dark: { colorScheme: "dark", viewport: { width: 1280, height: 900 } },
  phone: { colorScheme: "light", viewport: { width: 375, height: 800 }, isMobile: true, hasTouch: true },
};
const faults = [];
const check = (good, text) => good || faults.push(text);

async function open(browser, name, view) {
  const context = await browser.newContext({ ...VIEWS[view], bypassCSP: false });
  const tab = await context.newPage();
  const where = `${name}, ${view}`;
  tab.on("console", (message) => check(message.type() !== "error" && message.type() !== "warning", `${where}: console: ${message.text()}`));
  tab.on("pageerror", (error) => faults.push(`${where}: ${error.stack}`));
  tab.on("request", (request) => check(/^(file|data|blob):/.test(request.url()) && (request.url().startsWith("data:") || request.isNavigationRequest()), `${where}: request of ${request.url()}`));
  const client = await context.newCDPSession(tab);
  await client.send("Performance.enable", { timeDomain: "threadTicks" });
  await tab.goto(`file://${folder}/${name}.html`);
  return [tab, client];
}

// Everything unfolded and drawn.
async function unfold(tab) {
  await tab.evaluate(() => document.querySelectorAll("details").forEach((each) => (each.open = true)));
  await tab.evaluate(() => dispatchEvent(new Event("beforeprint")));
  await tab.waitForTimeout(300);
}

async function looks(tab, name, view) {
  const wide = await tab.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  const beyond = () => [...document.querySelectorAll("main *")].filter((each) => !each.closest(".scroll, pre, .plot") && each.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map((each) => `${each.tagName}#${each.id}`).slice(0, 4);
  check(wide <= 0, `${name}, ${view}: ${wide} pixels wider than the screen: ${await tab.evaluate(beyond)}`);
  const theme = await tab.evaluate(() => document.documentElement.dataset.theme);
  check(name === "watch" || theme === (view === "dark" ? "dark" : "light"), `${name}, ${view}: the theme is ${theme}`);
  check(!(await tab.evaluate(() => window.injected)), `${name}, ${view}: a name was run as a script`);
  await tab.evaluate(() => dispatchEvent(new Event("beforeprint")));
  await tab.waitForTimeout(300);
  await tab.screenshot({ path: `${folder}/${name}-${view}.png`, fullPage: true });
}

async function readable(tab, name, view) {
  await unfold(tab);
  await tab.evaluate(axe + ";0"); // by the debugger, which the page's policy does not concern
  const { violations } = await tab.evaluate(() => window.axe.run(document));
  for (const each of violations)
    (["serious", "critical"].includes(each.impact) ? faults : notes).push(`${name}, ${view}: axe, ${each.impact}: ${each.id}: ${each.help}: ${each.nodes[0].html.slice(0, 160)}`);
}
const notes = [];

const CONTROLS = "a[href], select, input, summary, button, [tabindex='0']";
const state = (tab) => tab.evaluate(() => [...document.querySelectorAll("figcaption, [role=status], output, [role=img]")].map((each) => each.textContent + (each.ariaLabel ?? "")).join("|") + document.getElementById("tokens-text")?.textContent + document.documentElement.dataset.theme);

// Tab reaches every control, and the keys of each change what the page says.
async function keyboard(tab, name) {
  const expected = await tab.evaluate((all) => [...document.querySelectorAll(all)].filter((each) => each.checkVisibility()).map((each, index) => (each.dataset.place = index)).length, CONTROLS);
  const reached = new Set();
  await tab.evaluate(() => document.activeElement.blur());
  for (let press = 0; press < expected + 20 && reached.size < expected; press++) {
    await tab.keyboard.press("Tab");
    const place = await tab.evaluate(() => document.activeElement.dataset.place);
    if (place !== undefined) reached.add(place);
  }
  check(reached.size === expected, `${name}: Tab reaches ${reached.size} of ${expected} controls`);
  const ids = await tab.$$eval("select, input", (all) => all.filter((each) => each.checkVisibility()).map((each) => each.id));
  for (const id of ids) {
    const choices = await tab.$eval(`#${id}`, (each) => each.options?.length ?? 2);
    if (choices < 2 || id === "experts-view") continue; // a view of two runs needs a second one, below
    const before = await state(tab);
    await tab.focus(`#${id}`);
    let changed = false; // the next choice may show the same, as the theme of the system and its own name do
    for (const key of ["ArrowDown", "ArrowDown", "ArrowUp", "ArrowUp", "ArrowUp"]) {
      await tab.keyboard.press(key);
      await tab.waitForTimeout(30);
      changed ||= (await state(tab)) !== before;
    }
    check(changed, `${name}: the keys of ${id} change nothing`);
  }
  return ids.length;
}

async function heatMap(tab, name) {
  await tab.selectOption("#experts-run", { index: 0 });
  await tab.selectOption("#experts-other", { index: 2 });
  check(await tab.isVisible("#experts-map-1"), `${name}: no second heat map beside the first`);
  await tab.selectOption("#experts-view", "difference");
  check(!(await tab.isVisible("#experts-map-1")), `${name}: a difference is one heat map`);
  check((await tab.textContent("#experts-caption-0")).includes("−"), `${name}: the caption does not name the difference`);
  const hover = await tab.evaluate(() => document.getElementById("experts-map-0").data[0].text[0][0]);
  for (const word of ["layer", "expert", "selections", "bias"]) check(hover.includes(word), `${name}: hovering says nothing of ${word}`);
  await tab.locator("#experts-map-0").scrollIntoViewIfNeeded();
  const box = await tab.locator("#experts-map-0 .plot-container").boundingBox();
  await tab.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
  await tab.waitForTimeout(150);
  check((await tab.locator("#experts-map-0 .hoverlayer .hovertext").count()) > 0, `${name}: hovering shows nothing`);
  await tab.mouse.click(box.x + box.width / 2, box.y + box.height / 2);
}

// A page of `condenser watch`: its button says what it does next.
async function watch(tab, view) {
  const before = await tab.textContent("#pause");
  await tab.focus("#pause");
  await tab.keyboard.press("Enter");
  check(before === "Pause" && (await tab.textContent("#pause")) === "Go on", `watch, ${view}: the button does not pause`);
  check((await tab.locator("td.condenser").count()) === 2, `watch, ${view}: condensers are not framed`);
  const [page, drawn] = await tab.evaluate(() => [document.body, document.querySelector("svg text")].map((each) => getComputedStyle(each)[each === document.body ? "color" : "fill"]));
  check(page === drawn, `watch, ${view}: curves are written in ${drawn} on a page in ${page}`);
}

// Seconds of the page's own thread: they do not depend on what else the machine does.
async function figures(client) {
  const { metrics } = await client.send("Performance.getMetrics");
  return Object.fromEntries(metrics.map(({ name, value }) => [name, value]));
}

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: process.getuid() ? [] : ["--no-sandbox"] });
for (const name of ["comparison", "study", "large", "watch"]) {
  for (const view of Object.keys(VIEWS)) {
    if (name === "large" && view !== "light") continue;
    const [tab, client] = await open(browser, name, view);
    if (name === "large") {
      const { TaskDuration: busy } = await figures(client);
      const [bytes, ready] = [statSync(`${folder}/large.html`).size, await tab.evaluate(() => document.documentElement.dataset.ready)];
      check(bytes < 10e6, `large: ${bytes} bytes`);
      const drawn = await tab.evaluate(() => { const start = performance.now(); const step = document.getElementById("experts-step"); step.value = 7; step.dispatchEvent(new Event("input", { bubbles: true })); return performance.now() - start; });
      console.log(`large: ${(bytes / 1e6).toFixed(1)} MB, ready after ${ready} ms, ${(1000 * busy).toFixed(0)} ms of them the page's own; a step of the slider ${drawn.toFixed(0)} ms`);
    }
    await looks(tab, name, view);
    await readable(tab, name, view);
    if (name === "comparison" && view !== "phone") {
      const controls = await keyboard(tab, `${name}, ${view}`);
      console.log(`${name}, ${view}: ${controls} controls by keyboard`);
      await heatMap(tab, `${name}, ${view}`);
    }
    if (name === "watch") await watch(tab, view);
    await tab.context().close();
  }
}
await browser.close();
notes.forEach((note) => console.log(`note: ${note}`));
faults.forEach((fault) => console.log(`FAULT: ${fault}`));
console.log(faults.length ? `${faults.length} faults` : `no fault; look at the screenshots in ${folder}`);
process.exit(faults.length ? 1 : 0);
