// The page of `bench watch`: asks its server again and again what a results folder holds, and draws it.
// Names, errors and commands in the answers are text of others: `make` puts them on the page as textContent alone.

const PAUSE = 2000, LOST = 5000, MOST_CHOSEN = 16, USUAL = 6, LISTED = 40;
const NAMES = [...DATA.figures, "gold"];
const UNITS = { KL: "nats per response", length: "tokens per response", entropy: "nats per token" };
const SVG = "http://www.w3.org/2000/svg";
const at = (id) => document.getElementById(id);
const known = new Map(); // curves by the id of their cell
let seen = null, slots = [];

function plural(count, noun) { return `${count} ${noun}${count === 1 ? "" : "s"}`; }

/** A number of seconds as `bench status` writes it. */
function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 90 * 60 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function left(estimate) {
  if (!estimate) return "";
  if (!estimate.known && estimate.seconds === 0) return "time left unknown";
  return `${estimate.known ? "about" : "over"} ${duration(estimate.seconds)} left`;
}

function clock(seconds) {
  const date = new Date(seconds * 1000);
  return Number.isNaN(date.getTime()) ? "?" : date.toLocaleString([], { dateStyle: "short", timeStyle: "short" });
}

/** Show a section with these elements, or hide it without any. */
function fill(id, made, leftOut = 0, noun = "") {
  const box = at(id), list = box.tagName === "UL" || box.tagName === "DL";
  const more = leftOut ? [make(list && box.tagName === "UL" ? "li" : "p", { class: "note", text: `${leftOut} more ${noun} not shown` })] : [];
  box.replaceChildren(...made, ...more);
  (box.closest("aside, section")).hidden = made.length === 0;
}

function figuresOf(values) {
  const parts = DATA.figures.map((name) => make("div", {}, make("dt", { text: name }), make("dd", { text: number(values[name]) })));
  return make("dl", { class: "figures" }, ...parts);
}

function bar(done, total) {
  if (!total) return null;
  return make("progress", { value: Math.min(done, total), max: total, "aria-label": `${done} of ${total}` });
}

function stageCard(stage) {
  const steps = stage.total ? `${stage.done} of ${stage.total}` : "begun";
  const time = stage.state === "stopped" ? "its process ended" : stage.left === null ? "time left unknown" : `about ${duration(stage.left)} left`;
  return make("div", {},
    make("h3", { text: stage.name }),
    bar(stage.done, stage.total),
    make("p", {}, make("span", { class: `state ${stage.state}`, text: stage.state }), ` ${steps}, ${time}`),
    stage.figures ? figuresOf(stage.figures) : null,
    make("p", { class: "note", text: `${stage.iteration === null ? "" : `figures of iteration ${stage.iteration}; `}since ${clock(stage.since)}, process ${stage.process}` }),
    ...stage.alarms.map((text) => make("p", { class: "alarm", text })));
}

function driverCard(driver) {
  const counts = [`${driver.done} of ${plural(driver.total, "stage")} done`];
  if (driver.running) counts.push(`${driver.running} running`);
  if (driver.failed) counts.push(`${driver.failed} failed`);
  if (driver.left) counts.push(left(driver.left));
  return make("div", {},
    make("h3", { text: driver.process }),
    bar(driver.done, driver.total),
    make("p", {}, make("span", { class: `state ${driver.state}`, text: driver.state }), ` since ${clock(driver.since)}; ${counts.join(", ")}`),
    make("p", { class: "note", text: driver.command }));
}

// -- cells and which of them have curves ------------------------------------------------------------------------------

/** The ids of the cells whose curves are shown: those in the address, else running ones, then the last that changed. */
function chosen() {
  const asked = state.get("show", "usual"), ids = new Set(seen.cells.map((cell) => cell.id));
  if (asked !== "usual") return asked.split(",").filter((id) => ids.has(id)).slice(0, MOST_CHOSEN);
  // versions begin with the time of the last change, in nanoseconds of the epoch: equally many digits
  const latest = (a, b) => (a.state === "running") === (b.state === "running") ? (a.version < b.version ? 1 : -1) : a.state === "running" ? -1 : 1;
  return seen.cells.filter((cell) => cell.version).sort(latest).slice(0, USUAL).map((cell) => cell.id);
}

/** A colour stays with its cell while it is shown. */
function slotOf(id) { return slots.indexOf(id); }

function keepSlots(ids) {
  slots = slots.map((id) => (ids.includes(id) ? id : null));
  for (const id of ids) {
    if (slots.includes(id)) continue;
    const free = slots.indexOf(null);
    if (free < 0) slots.push(id); else slots[free] = id;
  }
}

function cellRow(cell, shown) {
  const box = make("input", { type: "checkbox", value: cell.id });
  box.checked = shown.includes(cell.id);
  box.disabled = !box.checked && (shown.length >= MOST_CHOSEN || !cell.version);
  box.addEventListener("change", () => {
    const now = chosen().filter((id) => id !== cell.id);
    if (box.checked) now.push(cell.id);
    state.set("show", now.join(","), "usual");
    draw();
    refreshCurves();
  });
  return make("tr", {},
    make("th", { scope: "row" }, make("label", {}, box, make("span", { text: cell.name }))),
    make("td", { class: `state ${cell.state}`, text: cell.state }),
    make("td", { class: "n", text: `${cell.done} of ${cell.total}` }));
}

function drawCells(shown) {
  const asked = document.querySelector("input[name=find]").value.trim().toLowerCase();
  const found = seen.cells.filter((cell) => `${cell.name} ${cell.state}`.toLowerCase().includes(asked));
  const focus = document.activeElement?.value, body = at("cells").tBodies[0];
  const inside = body.contains(document.activeElement);
  body.replaceChildren(...found.slice(0, LISTED).map((cell) => cellRow(cell, shown)));
  if (inside) [...body.querySelectorAll("input")].find((box) => box.value === focus)?.focus();
  const out = found.length - LISTED + seen.left_out.cells;
  at("chosen").textContent = `${plural(shown.length, "curve")} shown, at most ${MOST_CHOSEN}.${found.length > LISTED || seen.left_out.cells ? ` ${out} more cells: narrow the search.` : ""}`;
}

// -- curves -----------------------------------------------------------------------------------------------------------

function drawn(tag, attributes, text = "") {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text) made.textContent = text;
  return made;
}

function look(id) {
  const slot = slotOf(id);
  return { stroke: `k${slot % 8}${slot >= 8 ? " dashed" : ""}`, fill: `f${slot % 8}` };
}

/** Round numbers from low to high, about four. */
function ticks(low, high) {
  const raw = (high - low) / 3 || 1, unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((one) => one * unit >= raw) * unit, found = [];
  for (let k = Math.ceil(low / step); k * step <= high + step * 1e-9; k += 1) found.push(k * step);
  return found;
}

function chart(name, curves) {
  const lines = curves.map((one) => [one, one.lines[name]]).filter(([, points]) => points.length);
  if (!lines.length) return null;
  const all = lines.flatMap(([, points]) => points), wide = 340, high = 190, edge = { left: 44, right: 8, top: 8, bottom: 22 };
  let [low, top] = [Math.min(...all.map((p) => p[1])), Math.max(...all.map((p) => p[1]))];
  if (top - low < 1e-9 * Math.max(1, Math.abs(top))) [low, top] = [low - 0.5, top + 0.5];
  const last = Math.max(...all.map((p) => p[0]), 1);
  const x = (value) => edge.left + (value / last) * (wide - edge.left - edge.right);
  const y = (value) => high - edge.bottom - ((value - low) / (top - low)) * (high - edge.top - edge.bottom);
  const svg = drawn("svg", { viewBox: `0 0 ${wide} ${high}`, role: "img", "aria-label": `${name} by iteration` });
  for (const value of ticks(low, top)) {
    svg.append(drawn("line", { class: "grid", x1: edge.left, x2: wide - edge.right, y1: y(value), y2: y(value) }));
    svg.append(drawn("text", { x: edge.left - 6, y: y(value) + 4, "text-anchor": "end" }, number(value)));
  }
  svg.append(drawn("line", { class: "axis", x1: edge.left, x2: wide - edge.right, y1: high - edge.bottom, y2: high - edge.bottom }));
  for (const value of ticks(0, last).filter(Number.isInteger)) {
    svg.append(drawn("text", { x: x(value), y: high - 6, "text-anchor": "middle" }, String(value)));
  }
  for (const [one, points] of lines) {
    const place = points.map(([i, value]) => `${x(i).toFixed(1)},${y(value).toFixed(1)}`);
    const line = drawn("polyline", { class: `line ${look(one.id).stroke}`, points: place.join(" ") });
    line.append(drawn("title", {}, one.name));
    svg.append(line);
    const dots = name === "gold" ? points : points.slice(-1);
    for (const [i, value] of dots) {
      const dot = drawn("circle", { class: `point ${look(one.id).fill}`, cx: x(i), cy: y(value), r: 3 });
      dot.append(drawn("title", {}, `${one.name}, iteration ${i}: ${number(value)}`));
      svg.append(dot);
    }
  }
  return make("figure", { class: "chart" }, make("figcaption", {}, make("b", { text: name }), `${UNITS[name] ? `, ${UNITS[name]}` : ""}, by iteration`), svg);
}

function drawCurves(shown) {
  const curves = shown.map((id) => known.get(id)).filter(Boolean);
  const charts = NAMES.map((name) => chart(name, curves)).filter(Boolean);
  at("charts").replaceChildren(...(charts.length ? charts : [make("p", { class: "note", text: "No curve is written yet." })]));
  at("legend").replaceChildren(...curves.map((one) => {
    const key = drawn("svg", { viewBox: "0 0 22 10", "aria-hidden": "true" });
    key.append(drawn("polyline", { class: `line ${look(one.id).stroke}`, points: "0,5 22,5" }));
    return make("li", {}, key, make("span", { text: one.name }));
  }));
  const table = at("last"), head = ["cell", "iteration", ...NAMES];
  table.tHead.replaceChildren(make("tr", {}, ...head.map((name, k) => make("th", { scope: "col", class: k ? "n" : "", text: name }))));
  table.tBodies[0].replaceChildren(...curves.map((one) => {
    const ends = NAMES.map((name) => one.lines[name].at(-1)), iteration = Math.max(...ends.filter(Boolean).map((end) => end[0]), 0);
    return make("tr", {}, make("th", { scope: "row", text: one.name }), make("td", { class: "n", text: String(iteration) }),
      ...ends.map((end) => make("td", { class: "n", text: number(end?.[1]) })));
  }));
  table.hidden = curves.length === 0;
  const said = curves.flatMap((one) => [...one.alarms, ...one.problems].map((text) => `${one.name}: ${text}`));
  at("alarms").replaceChildren(...said.map((text) => make("li", { text })));
}

// -- asking -----------------------------------------------------------------------------------------------------------

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store", credentials: "omit", redirect: "error" });
  const found = await answer.json();
  if (!answer.ok) throw new Error(typeof found.error === "string" ? found.error : "");
  return found;
}

/** Get the curves that are shown and have changed; true where there were some. */
async function refreshCurves() {
  const versions = new Map(seen.cells.map((cell) => [cell.id, cell.version]));
  const stale = chosen().filter((id) => versions.get(id) && known.get(id)?.version !== versions.get(id));
  for (const id of stale) {
    try { known.set(id, await ask(`curves.json?cell=${id}`)); } catch { /* gone meanwhile: the next list says so */ }
  }
  if (stale.length) draw();
}

function draw() {
  const shown = chosen();
  keepSlots(shown);
  const running = seen.drivers.some((driver) => driver.state === "running");
  at("total").textContent = `${seen.finished} of ${plural(seen.all, "cell")} finished; ${seen.left ? left(seen.left) : running ? "" : "nothing is running"}.`;
  at("when").textContent = `As of ${new Date(seen.time * 1000).toLocaleTimeString()}.`;
  fill("problems", seen.problems.map((text) => make("li", { text })), seen.left_out.problems, "problems");
  fill("stages", seen.stages.map(stageCard), seen.left_out.stages, "stages");
  fill("failed", seen.failed.flatMap((one) => [make("dt", { text: one.name }), make("dd", { text: one.error })]));
  fill("drivers", seen.drivers.map(driverCard), seen.left_out.drivers, "processes");
  drawCells(shown);
  drawCurves(shown);
}

async function poll() {
  let pause = PAUSE;
  try {
    if (!document.hidden || seen === null) {
      seen = await ask("status.json");
      draw();
      await refreshCurves();
    }
  } catch (error) {
    const why = error instanceof TypeError || !error.message ? "The server does not answer" : error.message;
    at("when").textContent = `${why}${seen ? `; this is how it was at ${new Date(seen.time * 1000).toLocaleTimeString()}` : ""}.`;
    pause = LOST;
  }
  document.documentElement.dataset.ready = "yes"; // tests wait for this
  setTimeout(poll, pause);
}

document.querySelector("form.controls").addEventListener("submit", (event) => event.preventDefault());
document.querySelector("input[name=find]").addEventListener("input", () => { if (seen) drawCells(chosen()); });
document.querySelector("button[name=usual]").addEventListener("click", () => { state.set("show", "usual", "usual"); if (seen) { draw(); refreshCurves(); } });
poll();
