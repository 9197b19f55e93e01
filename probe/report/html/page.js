// The page: texts around the figures and the table.

function listItems(id, lines) { byId(id).append(...lines.map((line) => make("li", {}, line))); }

function makeTexts() {
  byId("title").append(data.title);
  // [whether it is an answer, or else a comparison with it; the line]
  byId("answers").append(...data.answers.map(([isFirst, line]) => make("p", { class: isFirst ? "answer" : "compared" }, line)));
  byId("answers").append(...data.notes.map((line) => make("p", { class: "hint" }, `${line}.`)));
  listItems("warnings", [...data.warnings, ...data.remarks]);
  byId("care").hidden = !data.warnings.length && !data.remarks.length;
  for (const { path, config, commands } of data.runs) byId("runs").append(
    make("h3", {}, path), make("pre", { tabindex: 0, class: "commands", "aria-label": "Commands" }, commands.join("\n")),
    make("details", {}, make("summary", {}, "config.yaml, the resolved settings"), make("pre", { tabindex: 0, "aria-label": "Settings" }, config)));
  byId("versions").append(`Written with ${Object.entries(data.versions).map((each) => each.join(" ")).join(", ")}.`);
}

function makeConfused() {
  byId("confused").hidden = !data.confused.length;
  for (const source of data.sources) {
    const rows = data.confused.filter((each) => each.source === source.name);
    if (!rows.length) continue;
    const head = make("tr", {}, ...["Class", "taken for"].map((words) => make("th", { scope: "col" }, words)), ...["Images", "of"].map((words) => make("th", { scope: "col", class: "number" }, words)));
    const body = rows.map(({ label, predicted, images, of }) => make("tr", {}, make("td", {}, label), make("td", {}, predicted),
      make("td", { class: "number" }, numberText(images)), make("td", { class: "number" }, countText(of))));
    byId("confused-tables").append(make("figure", {}, make("figcaption", {}, source.name, make("small", {}, `${rows[0].head} on layer ${rows[0].layer}`)),
      make("table", { class: "plain" }, make("thead", {}, head), make("tbody", {}, ...body))));
  }
}

makeTexts();
makeFigures();
makeTable();
makeConfused();
makeGallery();
