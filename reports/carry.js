// What a reader takes along: figures as SVG and PNG, tables as Markdown, LaTeX and CSV, the address of a view.

const STYLE = ["fill", "fill-opacity", "stroke", "stroke-opacity", "stroke-width", "stroke-dasharray", "stroke-linejoin", "font-size", "font-family", "display"];

/** A line for screen readers and eyes: what a button did. */
function announce(button, text) {
  const said = button.parentElement.querySelector("output") ?? button.parentElement.appendChild(make("output", {}));
  said.textContent = text;
}

/** Copy text; a page from disk may have no clipboard, and then a field is selected for the old command. */
async function copy(button, text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = make("textarea", { "aria-hidden": "true" });
    field.value = text;
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    if (!done) { announce(button, "not copied: the browser refused"); return; }
  }
  announce(button, "copied");
}

function download(name, content) {
  const address = URL.createObjectURL(content), link = make("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

const fileName = (text) => text.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 60) || "figure";

/** A drawing that stands alone: the styles of the page's classes written into it, and what is hidden left out. */
function standalone(svg) {
  const made = svg.cloneNode(true), parts = [...svg.querySelectorAll("*")], copies = [...made.querySelectorAll("*")];
  const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
  parts.forEach((part, k) => {
    const found = getComputedStyle(part);
    for (const name of STYLE) if (found.getPropertyValue(name)) copies[k].setAttribute(name, found.getPropertyValue(name));
    copies[k].removeAttribute("class");
  });
  copies.filter((part) => part.getAttribute("display") === "none").forEach((part) => part.remove());
  for (const [name, value] of Object.entries({ xmlns: "http://www.w3.org/2000/svg", width, height })) made.setAttribute(name, value);
  const paper = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  for (const [name, value] of Object.entries({ width, height, fill: getComputedStyle(document.body).backgroundColor })) paper.setAttribute(name, value);
  made.prepend(paper);
  return { text: new XMLSerializer().serializeToString(made), width, height };
}

const svgBlob = (drawing) => new Blob([drawing.text], { type: "image/svg+xml" });

/** The drawing as PNG with three pixels for each unit of its view box. */
function png(drawing) {
  const address = URL.createObjectURL(svgBlob(drawing)), image = new Image();
  return new Promise((resolve, reject) => {
    image.onload = () => {
      const canvas = make("canvas", { width: 3 * drawing.width, height: 3 * drawing.height });
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      URL.revokeObjectURL(address);
      canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("no picture"))));
    };
    image.onerror = () => reject(new Error("no picture"));
    image.src = address;
  });
}

document.querySelectorAll(".charts figure").forEach((figure) => {
  const svg = figure.querySelector("svg"), title = figure.querySelector("figcaption").firstChild.textContent.trim();
  const task = figure.closest("[data-name]")?.dataset.name ?? "", name = fileName(`${task} ${title}`);
  const asSvg = make("button", { type: "button", text: "SVG", "aria-label": `Download ${title} as SVG` });
  const asPng = make("button", { type: "button", text: "PNG", "aria-label": `Download ${title} as PNG` });
  asSvg.addEventListener("click", () => download(`${name}.svg`, svgBlob(standalone(svg))));
  asPng.addEventListener("click", async () => {
    try { download(`${name}.png`, await png(standalone(svg))); } catch { announce(asPng, "this browser draws no picture"); }
  });
  figure.append(make("div", { class: "tools" }, asSvg, asPng));
});

/** The cells of a table in words, the head first; a value and its interval are separated by a space. */
function wordsOf(table) {
  const words = (cell) => cell.textContent.replace(/\s+/g, " ").trim();
  return [...table.tHead.rows, ...table.tBodies[0].rows].map((row) => [...row.cells].filter((cell) => !cell.hidden).map(words));
}

const WRITTEN = {
  Markdown(rows, numeric) {
    const line = (cells) => `| ${cells.map((cell) => cell.replace(/([\\`*_{}[\]<>|#~$&])/g, "\\$1")).join(" | ")} |`;
    return [line(rows[0]), `|${numeric.map((right) => (right ? "--:" : "---")).join("|")}|`, ...rows.slice(1).map(line)].join("\n") + "\n";
  },
  LaTeX(rows, numeric) {
    const names = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "−": "$-$", "–": "--" };
    const line = (cells) => `${cells.map((cell) => cell.replace(/[\\~^−–&%$#_{}]/g, (c) => names[c] ?? `\\${c}`)).join(" & ")} \\\\`;
    return [`\\begin{tabular}{${numeric.map((right) => (right ? "r" : "l")).join("")}}`, "\\toprule", line(rows[0]), "\\midrule", ...rows.slice(1).map(line), "\\bottomrule", "\\end{tabular}"].join("\n") + "\n";
  },
  CSV(rows) {
    // words that a spreadsheet would run as a formula get an apostrophe in front; minus signs of numbers are plain
    const cell = (text) => {
      const plain = text.replace(/−(?=[\d.])/g, "-");
      const safe = /^[=+\-@＝＋－＠]/.test(plain) && !/^[+-]?[\d.]/.test(plain) ? `'${plain}` : plain;
      return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
    };
    return rows.map((cells) => cells.map(cell).join(",")).join("\n") + "\n";
  },
};

document.querySelectorAll("table.sortable").forEach((table) => {
  const buttons = Object.entries(WRITTEN).map(([name, write]) => {
    const button = make("button", { type: "button", text: name, "aria-label": `Copy this table as ${name}` });
    button.addEventListener("click", () => {
      const numeric = [...table.tHead.rows[0].cells].filter((cell) => !cell.hidden).map((cell) => cell.classList.contains("n"));
      copy(button, write(wordsOf(table), numeric));
    });
    return button;
  });
  table.closest(".scroll").after(make("div", { class: "tools" }, make("span", { text: "Copy as" }), ...buttons));
});

// ---- series: at most a few are drawn in full, a reader chooses which -----------------------------------------------

const LINE = 11;

/** Labels beside the last points, moved apart: those in sight, from the top. */
function placeLabels(svg) {
  const seen = [];
  const labels = [...svg.querySelectorAll(".series:not(.faint) > .label")];
  for (const label of labels) label.dataset.y ??= label.getAttribute("y");
  labels.sort((a, b) => a.dataset.y - b.dataset.y);
  for (const label of labels) {
    const at = Math.max(Number(label.dataset.y), ...seen.map((y) => y + LINE));
    seen.push(at);
    label.setAttribute("y", at.toFixed(1));
  }
}

document.querySelectorAll(".legend.choose").forEach((legend) => {
  const charts = legend.parentElement;
  legend.querySelectorAll("li").forEach((entry) => {
    const button = make("button", { type: "button", "aria-pressed": String(!entry.classList.contains("faint")) });
    button.append(...entry.childNodes);
    entry.append(button);
    button.addEventListener("click", () => {
      const faint = entry.classList.toggle("faint");
      button.setAttribute("aria-pressed", String(!faint));
      charts.querySelectorAll(`.charts .series[data-series="${entry.dataset.series}"]`).forEach((part) => part.classList.toggle("faint", faint));
      charts.querySelectorAll(".charts svg.chart").forEach(placeLabels);
    });
  });
});

// ---- anchors into closed parts, and the address of a view -----------------------------------------------------------

function openTarget() {
  const name = decodeURIComponentSafe(location.hash.slice(1)), target = name && !name.includes("=") ? document.getElementById(name) : null;
  const closed = target?.closest("details:not([open])");
  if (!closed) return;
  closed.open = true;
  target.scrollIntoView();
}

function decodeURIComponentSafe(text) {
  try { return decodeURIComponent(text); } catch { return ""; }
}

addEventListener("hashchange", openTarget);
openTarget();

for (const part of document.querySelectorAll("#compare > h2, #inside > h2")) {
  const button = make("button", { type: "button", text: "Copy link", "aria-label": `Copy link to this view of ${part.textContent}` });
  button.addEventListener("click", () => copy(button, location.href));
  part.after(make("div", { class: "tools" }, button));
}

// A link to a response leads there; the rows of that section are shown by the script below this one.
addEventListener("load", () => {
  if (state.get("prompt")) document.querySelector("#browser .detail")?.scrollIntoView();
});
