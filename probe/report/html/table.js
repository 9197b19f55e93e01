// The table of cells. Rows are numbers; a sort orders all of them, a filter hides some, and one page of them is drawn.

const PAGE = 100;
const LONG = 40; // characters from which a text may be cut on the screen, so its whole is a title
const TEXTS = { percent: percentText, number: numberText, count: countText };

/** The text of a column in a row. */
function cellText(column, row) {
  if (column.kind === "text") return column.words[column.codes[row]];
  return TEXTS[column.kind](column.values[row]);
}

/** Rows in the order of a column. What is missing comes last both ways. Equal rows keep the order of the sort before. */
function sortRows(rows, column, descending) {
  const values = column.kind === "text" ? column.codes : column.values;
  const sign = descending ? -1 : 1;
  return rows.sort((one, two) => {
    const a = values[one], b = values[two];
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (a - b);
  });
}

function makeTable() {
  const { n, columns, same } = data.table;
  const column = (name) => columns.find((each) => each.name === name);
  const state = { order: Array.from({ length: n }, (_, row) => row), rows: [], page: 0, by: null, down: false };
  const wanted = { words: [], chosen: {} };
  let texts = null; // made at the first search

  function rowText(row) {
    texts ||= Array(n);
    return (texts[row] ||= columns.map((each) => cellText(each, row)).join("\n").toLowerCase());
  }

  function filter() {
    const picked = Object.entries(wanted.chosen).filter(([, code]) => code !== "").map(([name, code]) => [column(name).codes, Number(code)]);
    state.rows = state.order.filter((row) => picked.every(([codes, code]) => codes[row] === code) &&
      wanted.words.every((word) => rowText(row).includes(word)));
    state.page = 0;
    show();
  }

  function sort(name) {
    const found = column(name);
    state.down = state.by === name ? !state.down : found.kind === "percent"; // the best figures first
    state.by = name;
    sortRows(state.order, found, state.down);
    filter();
  }

  function show() {
    const first = state.page * PAGE, rows = state.rows.slice(first, first + PAGE);
    const isChosen = column("selected"), yes = isChosen.words.indexOf("yes");
    byId("table").tBodies[0].replaceChildren(...rows.map((row) => make("tr", { class: isChosen.codes[row] === yes ? "chosen" : null },
      ...columns.map((each) => makeCell(each, cellText(each, row))))));
    for (const header of byId("table").tHead.rows[0].cells) {
      const isBy = header.dataset.name === state.by;
      header.setAttribute("aria-sort", isBy ? (state.down ? "descending" : "ascending") : "none");
      header.querySelector("span").textContent = isBy ? (state.down ? "▼" : "▲") : "";
    }
    const total = state.rows.length, last = Math.min(first + PAGE, total);
    count.textContent = total ? `Rows ${countText(first + 1)} to ${countText(last)} of ${countText(total)}` + (total < n ? ` that match; ${countText(n)} in all` : "") : `No row of ${countText(n)} matches`;
    before.disabled = first === 0;
    after.disabled = last >= total;
  }

  const turn = (pages) => () => { state.page += pages; show(); };
  const before = make("button", { type: "button", onclick: turn(-1) }, "Previous");
  const after = make("button", { type: "button", onclick: turn(1) }, "Next");
  const count = make("span", { role: "status" });
  byId("pager").append(before, after, count);
  byId("table").tHead.append(make("tr", {}, ...columns.map((each) => make("th", { scope: "col", class: classOf(each), "data-name": each.name },
    make("button", { type: "button", onclick: () => sort(each.name) }, each.label, make("span", { "aria-hidden": "true" }))))));
  const search = make("input", { type: "search", placeholder: "words, in any column", oninput: () => {
    wanted.words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    filter();
  } });
  byId("filters").append(make("label", {}, "Search", search));
  for (const name of ["backbone", "dataset", "head", "layer", "shots", "status"]) {
    const found = column(name);
    if (!found || found.words.length < 2) continue;
    const words = name === "shots" ? new Map(data.shots) : new Map();
    const choices = found.words.map((word, code) => [code, words.get(word) || word]);
    byId("filters").append(makeSelect(found.label, [["", "all"], ...choices], (code) => { wanted.chosen[name] = code; filter(); }));
  }
  const tick = make("input", { type: "checkbox", onchange: () => {
    wanted.chosen.selected = tick.checked ? String(column("selected").words.indexOf("yes")) : "";
    filter();
  } });
  byId("filters").append(make("label", { class: "tick" }, tick, "selected cells only"));
  byId("same").textContent = same.length ? `Same for all cells: ${same.map(([label, value]) => `${label.toLowerCase()} ${value}`).join(", ")}.` : "";
  filter();
}

const classOf = (column) => (column.kind === "text" ? null : "number");

function makeCell(column, text) {
  return make("td", { class: classOf(column), title: text.length > LONG ? text : null }, text);
}
