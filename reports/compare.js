// The table of reward models with another baseline, slice or decoding.  Before a choice it shows the numbers of report.md.

function compareTable(box, found, place) {
  const form = box.querySelector("form"), body = box.querySelector("tbody"), note = box.querySelector("[data-note]");
  const kept = new Map(found.estimates.map(([arm, column, decoding, slice, ...rest]) => [`${arm}|${column}|${decoding}|${slice}`, rest]));
  const pairs = new Map(found.pairs.map(([arm, other, column, ...rest]) => [`${arm}|${other}|${column}`, rest]));
  const names = (k) => [...new Set(found.estimates.map((row) => row[k]))];
  const choices = {
    base: found.arms.map((arm, k) => [k, arm.label]),
    slice: names(3).sort((a, b) => (a !== "all") - (b !== "all") || (a < b ? -1 : 1)).map((name) => [name, name]),
    decoding: names(2).sort((a, b) => (a !== "sample") - (b !== "sample")).map((name) => [name, name]),
  };
  const normal = { base: "", slice: "all", decoding: "sample" };
  for (const [name, options] of Object.entries(choices)) {
    for (const [value, text] of options) form.elements[name].append(make("option", { value, text }));
    const wanted = state.get(name + place, normal[name]);
    if ([...form.elements[name].options].some((option) => option.value === wanted)) form.elements[name].value = wanted;
    form.elements[name].addEventListener("change", (event) => {
      state.set(name + place, event.target.value, normal[name]);
      fill();
    });
  }
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());

  function numberCell(value, text, interval, undecided) {
    const cell = make("td", { class: "n", "data-v": value === null || value === undefined ? null : value }, text);
    if (interval) cell.append(" ", make("span", { class: "interval", text: interval }));
    if (undecided) cell.append(" ", make("span", { class: "open-cases", text: `${undecided} undecided` }));
    return cell;
  }

  const range = (low, high, format) => (low === null || high === null ? "" : `[${written(low, format)}, ${written(high, format)}]`);

  /** The stored difference of two arms, paired by prompt and seed; pairs are stored once, in one direction. */
  function paired(arm, other, column) {
    const kept = pairs.get(`${arm}|${other}|${column}`);
    if (kept) return kept;
    const turned = pairs.get(`${other}|${arm}|${column}`);
    if (!turned) return null;
    const [value, low, high, p] = turned;
    return [-value, high === null ? null : -high, low === null ? null : -low, p];
  }

  /** A stored estimate; against another arm the stored paired difference, else a difference of point estimates. */
  function estimateCell(row, other, pair, format, runs) {
    if (!row || row[0] === null) return numberCell(null, DASH, "", row ? row[3] : 0);
    const [value, low, high, undecided] = row;
    if (other === null) return numberCell(value, written(value, format, runs), range(low, high, format), undecided);
    if (pair) return numberCell(pair[0], signed(pair[0], format), range(pair[1], pair[2], format), undecided);
    return other && other[0] !== null ? numberCell(value - other[0], signed(value - other[0], format), "", undecided) : numberCell(null, DASH, "", undecided);
  }

  function fill() {
    const { base, slice, decoding } = form.elements;
    const chosen = base.value === "" ? null : Number(base.value);
    const stored = slice.value === "all" && decoding.value === "sample";
    const rows = found.arms.map((arm, k) => {
      const against = chosen === null || chosen === k ? null : chosen;
      const cells = found.columns.map(({ format }, column) => estimateCell(
        kept.get(`${k}|${column}|${decoding.value}|${slice.value}`),
        against === null ? null : kept.get(`${against}|${column}|${decoding.value}|${slice.value}`) ?? false,
        against !== null && stored ? paired(k, against, column) : null,
        format,
        arm.seeds,
      ));
      const other = against === null ? null : found.arms[against].accuracy;
      const accuracy = arm.accuracy === null || (against !== null && other === null) ? numberCell(null, DASH)
        : against === null ? numberCell(arm.accuracy, number(arm.accuracy)) : numberCell(arm.accuracy - other, signed(arm.accuracy - other));
      return make("tr", { class: chosen === k ? "reference" : "" },
        make("th", { scope: "row", text: arm.label }), numberCell(arm.seeds, String(arm.seeds)), ...cells, accuracy);
    });
    body.replaceChildren(...rows);
    // against another arm the difference of a change is that of its level: one column of the two is enough
    found.columns.forEach(({ twin }, column) => {
      if (twin) for (const row of box.querySelectorAll("table tr")) row.cells[column + 2].hidden = chosen !== null;
    });
    note.textContent = chosen === null ? "" : `Differences to ${found.arms[chosen].label}, whose own row stays as measured. `
      + (stored && pairs.size ? "Differences with an interval are paired by prompt and training seed, and the interval is not adjusted for the number of pairs (the pairwise table is); the others are differences of point estimates with no interval."
        : "They are differences of point estimates with no interval: whether two intervals overlap decides nothing.");
    restoreSorting();
  }

  if (form.elements.base.value !== "" || form.elements.slice.value !== "all" || form.elements.decoding.value !== "sample") fill();
}

document.querySelectorAll(".compare").forEach((box, place) => compareTable(box, DATA.compare[place], place));
restoreSorting();
