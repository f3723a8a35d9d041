"use strict";
// Shared by the parts of the page: its data, elements built from text, the state in the address, and sorting.
// Text of models reaches the page through textContent only: no code here reads or writes HTML.

const DATA = JSON.parse(document.getElementById("data").textContent);
const DASH = "–";

/** An element; `options` are properties ("class", "text") and attributes, `children` elements or text. */
function make(tag, options = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "text") made.textContent = value;
    else if (name === "class") made.className = value;
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** A number as in the tables: two decimals, three below 0.1; halves are rounded to the even digit, as Python does. */
function number(value) {
  if (value === null || value === undefined) return DASH;
  const size = Math.abs(value), digits = size >= 0.1 || size === 0 ? 2 : 3;
  const tie = size * (digits === 2 ? 8 : 16) % 2 === 1, unit = 10 ** digits;
  let text = size.toFixed(digits);
  if (tie) text = ((Math.floor(size * unit) % 2 === 0 ? Math.floor(size * unit) : Math.ceil(size * unit)) / unit).toFixed(digits);
  return value < 0 && Number(text) !== 0 ? "−" + text : text;
}

/** A number in the format of its measure, as the tables write it: whole percent, `1 of 5` runs, or `number`. */
function written(value, format, runs) {
  if (format === "runs" && runs && value !== null && Math.abs(value * runs - Math.round(value * runs)) < 1e-6) return `${Math.round(value * runs)} of ${runs}`;
  if (format !== "percent" || value === null || value === undefined) return number(value);
  const size = Math.abs(100 * value), below = Math.floor(size);
  const whole = size - below === 0.5 ? below + (below % 2) : Math.round(size);
  return (value < 0 && whole !== 0 ? "−" : "") + whole + "%";
}

function signed(value, format) {
  const text = written(value, format);
  return value > 0 && Number.parseFloat(text) !== 0 ? "+" + text : text;
}

/** The page's state is in the address after #, so that a view can be linked; plain anchors are not changed. */
const state = {
  values: new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : ""),
  get(name, other = "") { return this.values.get(name) ?? other; },
  set(name, value, other = "") {
    if (String(value) === String(other)) this.values.delete(name); else this.values.set(name, value);
    try { history.replaceState(null, "", "#" + this.values.toString()); } catch { /* a viewer without history */ }
  },
};

function sortKey(row, column) {
  const cell = row.cells[column];
  if (!cell) return [2, ""];
  if (cell.dataset.v !== undefined) return [0, Number(cell.dataset.v)];
  const text = cell.textContent.trim();
  return text === DASH || text === "" ? [2, ""] : [1, text.toLowerCase()];
}

/** Sort a table's rows; rows without a value stay last in both directions. */
function sortTable(table, column, direction) {
  const sign = direction === "descending" ? -1 : 1;
  const keyed = [...table.tBodies[0].rows].map((row) => [sortKey(row, column), row]);
  keyed.sort(([[a, x]], [[b, y]]) => a === 2 || b === 2 || a !== b ? a - b : sign * (x < y ? -1 : x > y ? 1 : 0));
  table.tBodies[0].append(...keyed.map(([, row]) => row));
  [...table.tHead.rows[0].cells].forEach((cell, k) => {
    if (k === column) cell.setAttribute("aria-sort", direction); else cell.removeAttribute("aria-sort");
  });
}

function nextDirection(cell) {
  const now = cell.getAttribute("aria-sort");
  if (now) return now === "descending" ? "ascending" : "descending";
  return cell.classList.contains("n") ? "descending" : "ascending";
}

document.querySelectorAll("table.sortable").forEach((table, place) => {
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    const button = make("button", { type: "button", text: cell.textContent });
    cell.replaceChildren(button);
    button.addEventListener("click", () => {
      const direction = nextDirection(cell);
      sortTable(table, column, direction);
      state.set("sort", `${place}.${column}.${direction}`);
    });
  });
});

/** Apply the sorting in the address again, after the rows of a table were replaced. */
function restoreSorting() {
  const [place, column, direction] = state.get("sort").split(".");
  const table = document.querySelectorAll("table.sortable")[Number(place)];
  if (!direction || !table || !table.tHead.rows[0].cells[Number(column)]) return;
  if (direction === "ascending" || direction === "descending") sortTable(table, Number(column), direction);
}
