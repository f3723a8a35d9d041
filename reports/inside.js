// The section "Look inside": prompts to search and filter, and for one of them every policy's response, token by token.

const PAGE = 40, SHOWN = 4, WIN = 0.75, LOSS = 0.25;

const FILTERS = {
  all: ["all prompts", () => true],
  flips: ["wins under one, loses under another", (rows, task) => wins(rows, task).some((v) => v >= WIN) && wins(rows, task).some((v) => v <= LOSS)],
  loses: ["loses under some", (rows, task) => wins(rows, task).some((v) => v <= LOSS)],
  empty: ["an empty response", (rows) => rows.some((row) => !row.x.trim())],
  cut: ["a response cut off", (rows) => rows.some((row) => row.c)],
  undecided: ["an undecided verdict", (rows) => rows.some((row) => row.w)],
};

const ORDERS = {
  stored: ["as stored", null],
  loss: ["largest loss first", (values) => Math.min(...values)],
  gain: ["largest gain first", (values) => -Math.max(...values)],
  spread: ["largest disagreement first", (values) => Math.min(...values) - Math.max(...values)],
};

/** Verdicts of the first measure of kind "win"; none without one. */
function wins(rows, task) {
  const place = task.measures.findIndex((measure) => measure.kind === "win");
  return place < 0 ? [] : valuesOf(rows, place);
}

function valuesOf(rows, place) {
  return rows.map((row) => row.v?.[place]).filter((value) => value !== null && value !== undefined);
}

/** The seed of a run, or its seeds in layers: a number, or their text. */
function runName(seed) {
  return typeof seed === "number" ? `seed ${seed}` : visible(seed);
}

/** Characters that move or hide others (controls, direction marks) are shown by their code; joiners that scripts need stay. */
function visible(text) {
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b\u2028-\u202e\u2060-\u206f\ufeff]/g,
    (character) => "\\u" + character.codePointAt(0).toString(16).padStart(4, "0"));
}

/** Tokens as [start, end, reward], counted in code points as they are stored. */
function tokensOf(row) {
  return (row.t ?? []).map((reward, k) => [row.s ? row.s[k] : k ? row.e[k - 1] : 0, row.e[k], reward]);
}

function shade(reward, top) {
  if (!reward || !top) return "tok";
  return `tok ${reward > 0 ? "p" : "n"}${Math.min(4, Math.max(1, Math.ceil((4 * Math.abs(reward)) / top)))}`;
}

/** The response with every token on the colour of its reward; text outside tokens stays plain. */
function heated(row, top) {
  const box = make("div", { class: "text", dir: "auto" });
  if (!row.x.trim()) box.append(make("span", { class: "seeds", text: "(empty) " }));
  const letters = Array.from(row.x);
  let at = 0;
  for (const [start, end, reward] of tokensOf(row)) {
    if (start > at) box.append(visible(letters.slice(at, start).join("")));
    const text = letters.slice(Math.max(at, start), end).join(""), ends = start === end && end === letters.length;
    if (text || ends) box.append(make("span", { class: shade(reward, top) + (ends ? " end" : ""), title: `reward ${reward}`, text: ends ? "end" : visible(text) }));
    at = Math.max(at, end);
  }
  box.append(visible(letters.slice(at).join("")));
  return box;
}

function tokenTable(row) {
  const letters = Array.from(row.x);
  const rows = tokensOf(row).map(([start, end, reward]) => make("tr", {},
    make("th", { scope: "row", text: start === end ? (end === letters.length ? "end of text" : "part of the next") : visible(letters.slice(start, end).join("")) }),
    make("td", { class: "n", text: String(reward) })));
  return folded("Token rewards", make("table", { "aria-label": "Token rewards" },
    make("thead", {}, make("tr", {}, make("th", { scope: "col", text: "token" }), make("th", { scope: "col", class: "n", text: "reward" }))),
    make("tbody", {}, ...rows)));
}

function folded(title, ...children) {
  return make("details", {}, make("summary", { text: title }), ...children);
}

/** A verdict as a word (win, tie, loss, yes, no), or its number. */
function worded(value, measure) {
  if (value === null || value === undefined) return DASH;
  if (measure.kind === "win" && [0, 0.5, 1].includes(value)) return { 0: "loss", 0.5: "tie", 1: "win" }[value];
  if (measure.kind === "rate" && [0, 1].includes(value)) return value ? "yes" : "no";
  const text = Number.isInteger(value) && measure.format !== "percent" ? String(value).replace("-", "−") : written(value, measure.format);
  return measure.kind === "change" && value > 0 ? "+" + text : text;
}

/** The verdicts of all judges on the chosen runs, side by side. */
function verdictTable(task, cells, place) {
  const head = cells.map((cell) => make("th", { scope: "col", class: "n" }, visible(cell.label), " ", make("span", { class: "seeds", text: runName(cell.seed) })));
  const rows = task.measures.map((measure, k) => make("tr", {},
    make("th", { scope: "row", title: measure.description, text: visible(measure.title) }),
    ...cells.map((cell) => cell.rows?.[place]).map((row) => make("td", { class: "n", text: row && (row.v?.[k] ?? null) === null && row.w?.[measure.judge] ? "undecided" : worded(row?.v?.[k], measure) }))));
  return make("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": "Verdicts" }, make("table", { class: "verdicts-of" },
    make("caption", { text: "Verdicts of the judges" }), make("thead", {}, make("tr", {}, make("th", { scope: "col", text: "measure" }), ...head)), make("tbody", {}, ...rows)));
}

/** Reasons of undecided verdicts, and the judges' notes, folded. */
function remarks(row) {
  const reasons = Object.entries(row.w ?? {}).map(([judge, reason]) => make("p", { class: "note", dir: "auto", text: visible(`${judge} undecided: ${reason}`) }));
  const notes = Object.entries(row.o ?? {}).map(([judge, found]) => folded(visible(`Notes of ${judge}`), ...Object.entries(found).map(([name, value]) =>
    make("div", {}, make("span", { class: "seeds", text: visible(name) }), make("pre", { dir: "auto", text: visible(typeof value === "string" ? value : JSON.stringify(value, null, 1)) })))));
  return [...reasons, ...notes];
}

function card(title, seed, row, top, wide) {
  const box = make("article", { class: wide ? "card wide" : "card" }, make("h4", {}, visible(title), " ", make("span", { class: "seeds", text: runName(seed) })));
  if (!row) { box.append(make("p", { class: "note", text: "no response to this prompt" })); return box; }
  const facts = [`${row.n} tokens`, row.c ? "cut off" : "", row.k === undefined ? "" : `KL ${number(row.k)}`, row.r === undefined ? "" : `reward ${number(row.r)}`];
  box.append(heated(row, top), make("p", { class: "note", text: facts.filter(Boolean).join(" · ") }));
  if (row.q !== undefined) box.append(corrected(row));
  if (row.g !== undefined) box.append(folded("Greedy response", make("div", { class: "text", dir: "auto", text: visible(row.g) || "(empty)" })));
  if (row.t) box.append(tokenTable(row));
  box.append(...remarks(row));
  return box;
}

/** Words of `from` and `to` as [text, -1 (only in from), 0 (in both) or 1 (only in to)], by a longest common sequence. */
function differences(from, to) {
  const [a, b] = [from, to].map((text) => text.match(/\s*\S+|\s+$/g) ?? []);
  if (a.length * b.length > 1e6) return [[from, -1], [to, 1]];
  const best = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) for (let j = b.length - 1; j >= 0; j--) {
    best[i][j] = a[i].trim() === b[j].trim() ? best[i + 1][j + 1] + 1 : Math.max(best[i + 1][j], best[i][j + 1]);
  }
  const found = [];
  const add = (text, side) => { const last = found.at(-1); if (last && last[1] === side) last[0] += text; else found.push([text, side]); };
  let i = 0, j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i].trim() === b[j].trim()) { add(b[j++], 0); i++; }
    else if (j === b.length || (i < a.length && best[i + 1][j] >= best[i][j + 1])) add(a[i++], -1);
    else add(b[j++], 1);
  }
  return found;
}

/** The reward model's correction of the response as a diff: removed words struck out, added words underlined. */
function corrected(row) {
  if (row.q.trim() === row.x.trim()) return make("p", { class: "note", text: "The reward model's correction changes nothing." });
  const parts = differences(row.x, row.q).map(([text, side]) => side === 0 ? visible(text) : make(side < 0 ? "del" : "ins", { text: visible(text) }));
  return folded("Correction by the reward model", make("p", { class: "seeds" }, make("del", { text: "left out" }), " ", make("ins", { text: "written instead" })),
    make("div", { class: "text", dir: "auto" }, ...parts));
}

/** Rows that came from the files beside the page, and promises of them, by the file's name. */
const ARRIVED = new Map(), ASKED = new Map();

/** Every file of details calls this with its name and its rows as JSON. */
function details(name, text) {
  ARRIVED.set(name, JSON.parse(text));
}

/** Read a file of details; resolves when it has been read, or cannot be. */
function ask(name) {
  if (!ASKED.has(name)) ASKED.set(name, new Promise((done) => {
    const script = make("script", { src: `details/${name}.js` });
    script.addEventListener("load", done);
    script.addEventListener("error", done);
    document.head.append(script);
  }));
  return ASKED.get(name);
}

/** Put the rows of a file into the cell or baseline that it is of. */
async function fill(part) {
  const name = part.file;
  await ask(name);
  delete part.file;
  if (ARRIVED.has(name)) ({ rows: part.rows, top: part.top } = ARRIVED.get(name)); else part.missing = name;
}

function legendOf(cells) {
  if (!cells.some((cell) => cell.top)) return null;
  const steps = ["n4", "n3", "n2", "n1", "", "p1", "p2", "p3", "p4"];
  return make("p", { class: "heat" }, "Reward of a token: below zero (underlined) ", ...steps.map((step) => make("span", { class: `tok ${step}`, text: step ? " " : "0" })),
    " above zero. The strongest shade is set for each run: nine in ten of its rewards other than 0 are weaker.");
}

function inside(box, tasks) {
  const pick = (name, label, options, value) => {
    const select = make("select", { name }, ...options.map(([key, text]) => make("option", { value: key, text })));
    select.value = options.some(([key]) => String(key) === String(value)) ? value : options[0][0];
    return [select, make("label", {}, label + " ", select)];
  };
  const entries = (table) => Object.entries(table).map(([key, [text]]) => [key, text]);
  const [taskBox, taskLabel] = pick("task", "Task", tasks.map((task, k) => [k, task.task]), state.get("task", "0"));
  const [filterBox, filterLabel] = pick("filter", "Show", entries(FILTERS), state.get("filter", "all"));
  const [orderBox, orderLabel] = pick("order", "Order", entries(ORDERS), state.get("order", "stored"));
  const [byBox, byLabel] = pick("by", "By", [["", ""]], "");
  const query = make("input", { type: "search", name: "q", size: 22 });
  query.value = state.get("q");
  const count = make("p", { class: "note", "aria-live": "polite" }), list = make("ol", { class: "picks", "aria-label": "Prompts" });
  const more = make("button", { type: "button", class: "plain", text: "Show more prompts" });
  const detail = make("div", { class: "detail", tabindex: "-1" }), cellsBox = make("fieldset", {});
  const form = make("form", { class: "controls" }, tasks.length > 1 ? taskLabel : null, make("label", {}, "Search ", query), filterLabel, orderLabel, byLabel);
  box.append(form, cellsBox, count, make("div", { class: "panes" }, make("div", {}, list, more), detail));
  form.addEventListener("submit", (event) => event.preventDefault());

  let task, shown, found = [], limit = PAGE;
  const cells = () => shown.map((k) => task.cells[k]);
  const rowsOf = (place) => cells().map((cell) => cell.rows?.[place]).filter(Boolean);

  function firstCells() {
    const kept = state.get("show").split(",").map(Number).filter((k) => state.get("show") && task.cells[k]);
    if (kept.length) return kept;
    const first = task.cells.map((cell, k) => [cell, k]).filter(([cell], at, all) => all.findIndex(([other]) => other.label === cell.label) === at);
    return first.slice(0, SHOWN).map(([, k]) => k);
  }

  function openTask() {
    task = tasks[Number(taskBox.value)];
    shown = firstCells();
    const boxes = task.cells.map((cell, k) => {
      const check = make("input", { type: "checkbox", value: k });
      check.checked = shown.includes(k);
      check.addEventListener("change", () => {
        shown = task.cells.map((_, j) => j).filter((j) => (j === k ? check.checked : shown.includes(j)));
        state.set("show", shown.join(","));
        refresh();
      });
      check.setAttribute("aria-label", `${cell.label}, ${runName(cell.seed)}`);
      return [cell.label, make("label", {}, check, ` ${cell.seed}`)];
    });
    const labels = [...new Set(boxes.map(([label]) => label))];
    const groups = labels.map((label) => make("span", { class: "choice" }, visible(label), ...boxes.filter(([own]) => own === label).map(([, box]) => box)));
    cellsBox.replaceChildren(make("legend", { text: "Side by side, by seed" }), ...groups);
    const measures = task.measures.map((measure, k) => [k, visible(measure.title)]);
    const usual = [...task.measures.keys()].sort((a, b) => rank(task.measures[a]) - rank(task.measures[b]))[0] ?? "";
    byBox.replaceChildren(...measures.map(([value, text]) => make("option", { value, text })));
    byBox.value = task.measures[Number(state.get("by", usual))] ? state.get("by", usual) : usual;
    refresh();
  }

  /** Prompts are sorted first by a change that says better or worse, else by a win. */
  const rank = (measure) => (measure.kind === "change" ? (measure.better ? 0 : 2) : measure.kind === "win" ? 1 : 3);

  function matches(place, words) {
    const prompt = task.prompts[place], texts = [prompt.id, prompt.x, prompt.reference, ...prompt.slices, ...rowsOf(place).map((row) => row.x)];
    return !words || texts.some((text) => text.toLowerCase().includes(words));
  }

  function refresh() {
    const parts = [...cells(), ...cells().map((cell) => task.baselines[cell.baseline])].filter((part) => part.file);
    if (parts.length) Promise.all(parts.map(fill)).then(refresh);
    const words = query.value.trim().toLowerCase(), by = Number(byBox.value), key = ORDERS[orderBox.value][1];
    found = task.prompts.map((_, place) => place).filter((place) => FILTERS[filterBox.value][1](rowsOf(place), task) && matches(place, words));
    if (key) {
      const keyed = found.map((place) => [valuesOf(rowsOf(place), by), place]).map(([values, place]) => [values.length ? key(values) : Infinity, place]);
      found = keyed.sort(([a, i], [b, j]) => (a === b ? i - j : a - b)).map(([, place]) => place);
    }
    limit = PAGE;
    draw();
    const wanted = found.find((place) => task.prompts[place].id === state.get("prompt")) ?? found[0];
    open(wanted);
  }

  function draw() {
    const missing = cells().filter((cell) => cell.missing).map((cell) => `details/${cell.missing}.js`);
    count.textContent = `${found.length} of ${task.prompts.length} prompts` + (missing.length ? `; ${missing.join(", ")} cannot be read: keep the folder details beside this page` : "");
    list.replaceChildren(...found.slice(0, limit).map(entry));
    more.hidden = found.length <= limit;
  }

  function entry(place) {
    const prompt = task.prompts[place], by = Number(byBox.value), measure = task.measures[by] ?? {};
    const chips = cells().map((cell) => {
      const value = cell.rows?.[place]?.v?.[by] ?? null, middle = measure.reference ?? null;
      const tone = value === null || middle === null || value === middle ? "" : (value > middle) === (measure.better !== "lower") ? " up" : " down";
      return make("span", { class: "chip" + tone, title: `${cell.label}, ${runName(cell.seed)}`, text: worded(value, measure) });
    });
    const button = make("button", { type: "button", "data-place": place }, make("b", { text: visible(prompt.id) }),
      make("span", { class: "start", dir: "auto", text: visible(prompt.x.slice(0, 160)) }), ...chips);
    button.addEventListener("click", () => {
      state.set("prompt", prompt.id);
      open(place);
      if (window.matchMedia("(max-width: 760px)").matches) detail.scrollIntoView();
      detail.focus({ preventScroll: true });
    });
    return make("li", {}, button);
  }

  function open(place) {
    list.querySelectorAll("button").forEach((button) => button.setAttribute("aria-current", String(button.dataset.place === String(place))));
    if (place === undefined) { detail.replaceChildren(make("p", { class: "note", text: "No prompt matches." })); return; }
    const prompt = task.prompts[place], bases = [...new Set(cells().map((cell) => cell.baseline))];
    const before = bases.map((k) => card("SFT baseline", cells().find((cell) => cell.baseline === k).seed, task.baselines[k].rows?.[place], 0, bases.length === 1));
    detail.replaceChildren(
      make("h3", { text: visible(prompt.id) }),
      prompt.slices.length ? make("p", { class: "note", text: visible(prompt.slices.join(" · ")) }) : "",
      make("div", { class: "prompt text", dir: "auto", text: visible(prompt.x) }),
      prompt.reference ? folded("Reference", make("div", { class: "prompt text", dir: "auto", text: visible(prompt.reference) })) : "",
      legendOf(cells()) ?? "",
      make("div", { class: "cards" }, ...before, ...cells().map((cell) => card(cell.label, cell.seed, cell.rows?.[place], cell.top))),
      verdictTable(task, cells(), place),
    );
  }

  let waiting;
  query.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { state.set("q", query.value); refresh(); }, 120);
  });
  for (const [select, normal] of [[filterBox, "all"], [orderBox, "stored"], [byBox, null]]) {
    select.addEventListener("change", () => { state.set(select.name, select.value, normal); refresh(); });
  }
  taskBox.addEventListener("change", () => {
    for (const name of ["show", "by", "prompt"]) state.set(name, "");
    state.set("task", taskBox.value, "0");
    openTask();
  });
  more.addEventListener("click", () => { limit += PAGE; const at = list.children.length; draw(); list.children[at]?.firstChild.focus(); });
  openTask();
  box.hidden = false;
}

if (DATA.inside.tasks.length) inside(document.getElementById("browser"), DATA.inside.tasks);
document.documentElement.dataset.ready = "yes"; // tests wait for this and measure how long it took
performance.mark("ready");
