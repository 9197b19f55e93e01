// The charts of the report, and their controls: which backbone, which training data, which heads, which cost.

const COSTS = [["n_params", "parameters"], ["flops", "FLOP per image"]];
const shotsWords = new Map(data.shots);
const headOf = new Map(data.heads.map((head) => [head.name, head]));

function makeFigures() {
  const state = { source: data.sources[0].name, shots: null, cost: "n_params", curve: "figure", hidden: new Set() };
  const redraw = () => {
    const source = data.sources.find(({ name }) => name === state.source);
    hideTip();
    WIDTH = Math.max(300, Math.min(560, byId("charts").clientWidth - 24));
    const charts = [layerChart, shotsChart, backboneChart, costChart, curveChart].map((chart) => chart(source, state)).filter(Boolean);
    byId("charts").replaceChildren(...charts.map(drawChart));
  };
  const set = (name) => (value) => { state[name] = value; redraw(); };
  const shotsOf = (source) => data.shots.filter(([shots]) => data.points.some((each) => each.source === source && each.shots === shots));
  const several = data.shots.length > 1;
  const shotsBox = make("span");
  const setSource = (source) => {
    const offered = shotsOf(source);
    if (!offered.some(([shots]) => shots === state.shots)) state.shots = offered.length ? offered[0][0] : null;
    const select = makeSelect("Training data", offered, set("shots"));
    select.querySelector("select").value = state.shots;
    shotsBox.replaceChildren(...(several ? [select] : []));
    set("source")(source);
  };
  const controls = byId("figure-controls");
  if (data.sources.length > 1) controls.append(makeSelect("Backbone", data.sources.map(({ name }) => [name, name]), setSource));
  if (several) controls.append(shotsBox);
  controls.append(makeSelect("Cost", COSTS, set("cost")));
  if (data.curves.length) controls.append(makeSelect("Curves", [["figure", "scored images"], ["loss", "training loss"]], set("curve")));
  byId("legend").append(...data.heads.map((head) => legendButton(head, (hidden) => {
    hidden ? state.hidden.add(head.name) : state.hidden.delete(head.name);
    redraw();
  })));
  setSource(state.source);
  addEventListener("resize", redraw);
}

function legendButton(head, onswitch) {
  const icon = draw("svg", { width: 14, height: 14, viewBox: "-7 -7 14 14", "aria-hidden": "true" }, headGroup(head, markerOf(head, 0, 0)));
  const button = make("button", { type: "button", "aria-pressed": "true", title: head.spec, onclick: () => {
    const hidden = button.getAttribute("aria-pressed") === "true";
    button.setAttribute("aria-pressed", String(!hidden));
    onswitch(hidden);
  } }, icon, head.name);
  return button;
}

/** Points by head, without the heads that are switched off. A point gets x, and its range. */
function seriesOf(points, state, place, line) {
  const series = [];
  for (const head of data.heads) {
    const own = points.filter((point) => point.head === head.name);
    if (own.length && !state.hidden.has(head.name)) series.push({ head, line, points: own.map((point) => asMark(point, place(point))) });
  }
  return series;
}

function asMark(point, x) {
  const source = data.sources.find(({ name }) => name === point.source);
  const spread = point.std === null ? null : [point.test - point.std, point.test + point.std];
  const range = source.several_seeds ? spread : point.interval;
  return { x, y: point.test, low: range?.[0], high: range?.[1], lines: tipLines(point, source) };
}

function tipLines(point, source) {
  const few = (value) => numberText(value);
  const lines = [`${point.source}, layer ${point.layer}, ${shotsWords.get(point.shots)}${point.best ? "; the selected layer" : ""}`];
  lines.push(`test ${source.figure} ${percentText(point.test)} %` + (point.std === null ? "" : ` ± ${percentText(point.std)} over ${point.n_seeds} seeds`));
  lines.push(point.interval ? `95 % interval ${percentText(point.interval[0])} to ${percentText(point.interval[1])}` + (point.n_test === null ? "" : ` over ${countText(point.n_test)} test images`) : "no interval is known");
  const costs = [point.n_params === null ? "" : `${shortText(point.n_params)} parameters`, point.flops === null ? "" : `${shortText(point.flops)} FLOP per image`];
  lines.push([point.lr === null ? "" : `base lr ${few(point.lr)}`, ...costs].filter(Boolean).join(", "));
  lines.push(`cell ${point.cells[0]}${point.cells.length > 1 ? ` and ${point.cells.length - 1} of other seeds` : ""}`);
  return lines.filter(Boolean);
}

function rangeWords(series, source) {
  if (!series.some(({ points }) => points.some(({ low }) => low != null))) return "";
  return source.several_seeds ? "Band or bar: ± 1 std over seeds." : "Band or bar: 95 % interval over test images.";
}

const chosenPoints = (source, state) => data.points.filter((point) => point.source === source.name && point.shots === state.shots);
const titleOf = (source) => (data.sources.length > 1 ? `: ${source.name}` : "");
const dataOf = (state) => (data.shots.length > 1 ? `With ${shotsWords.get(state.shots)}. ` : "");

function layerChart(source, state) {
  const points = chosenPoints(source, state), isSingle = (layer) => /^\d+$/.test(layer);
  const layers = data.layers.filter((layer) => points.some((point) => point.layer === layer));
  const single = layers.filter(isSingle), joined = layers.filter((layer) => !isSingle(layer));
  if (layers.length < 2) return null;
  const last = single.length ? Number(single.at(-1)) : -2;
  const step = single.length ? Math.max(2, Math.ceil((last - Number(single[0])) / 6)) : 2;
  const places = new Map([...single.map((layer) => [layer, Number(layer)]), ...joined.map((layer, number) => [layer, last + step * (number + 1)])]);
  const at = (point) => places.get(point.layer);
  const series = [...seriesOf(points.filter(({ layer }) => isSingle(layer)), state, at, true), ...seriesOf(points.filter(({ layer }) => !isSingle(layer)), state, at, false)];
  const best = new Map(points.filter((point) => point.best).map((point) => [point.head, at(point)]));
  for (const { head, points: own } of series) for (const mark of own) mark.ring = best.get(head.name) === mark.x;
  return { name: "layers", title: `By layer${titleOf(source)}`, note: `${dataOf(state)}Rings mark selected layers. ${rangeWords(series, source)}`, series,
    xTicks: layers.map((layer) => [places.get(layer), layer]), xLabel: joined.length ? "layer (right: layers joined)" : "layer",
    yLabel: `test ${source.figure} (%)`, chance: source.chance, gap: single.length && joined.length ? last + step / 2 : null };
}

function shotsChart(source, state) {
  const points = data.points.filter((point) => point.source === source.name && point.best);
  const shots = data.shots.map(([each]) => each).filter((each) => points.some((point) => point.shots === each)).reverse();
  if (shots.length < 2) return null;
  const words = (each) => (each === "full" ? "all" : each.includes(".") ? `${Number((100 * each).toPrecision(4))} %` : each);
  const series = seriesOf(points, state, (point) => shots.indexOf(point.shots), true);
  const counted = shots.some((each) => /^\d+$/.test(each));
  return { name: "shots", title: `By training data${titleOf(source)}`, note: `At the selected layers. ${rangeWords(series, source)}`, series,
    xTicks: shots.map((each, place) => [place, words(each)]), xLabel: counted ? "training images per class" : "part of the training images",
    yLabel: `test ${source.figure} (%)`, chance: source.chance };
}

function backboneChart(source, state) {
  const sources = data.sources.filter(({ dataset, figure }) => dataset === source.dataset && figure === source.figure);
  if (sources.length < 2) return null;
  const names = sources.map(({ name }) => name), heads = data.heads.length;
  const points = data.points.filter((point) => point.best && point.shots === state.shots && names.includes(point.source));
  const place = (point) => names.indexOf(point.source) + (0.5 * (data.heads.indexOf(headOf.get(point.head)) + 0.5)) / heads - 0.25;
  const series = seriesOf(points, state, place, false);
  return { name: "backbones", title: `Backbones on ${source.dataset}`, note: `${dataOf(state)}At the selected layers. ${rangeWords(series, source)}`, series,
    xTicks: sources.map(({ backbone }, number) => [number, backbone]), xLabel: "backbone", yLabel: `test ${source.figure} (%)` };
}

function costChart(source, state) {
  const points = chosenPoints(source, state).filter((point) => point.best && point[state.cost] > 0);
  if (points.length < 2) return null;
  const series = seriesOf(points, state, (point) => Math.log10(point[state.cost]), false);
  const front = points.filter((point) => point.front.includes(state.cost)).map((point) => [Math.log10(point[state.cost]), point.test]);
  return { name: "cost", title: `By cost${titleOf(source)}`, note: `${dataOf(state)}At the selected layers. Line: heads that no cheaper one beats. ${rangeWords(series, source)}`, series,
    front: front.sort((one, two) => one[0] - two[0]), log: true, xLabel: new Map(COSTS).get(state.cost), yLabel: `test ${source.figure} (%)` };
}

function curveChart(source, state) {
  const found = data.curves.filter((each) => each.source === source.name && each.shots === state.shots && !state.hidden.has(each.head));
  const series = found.map((curve) => {
    const points = curve.epoch.map((epoch, number) => ({ x: epoch, y: curve[state.curve][number], ring: epoch === curve.best_epoch, lines: [
      `epoch ${epoch}${epoch === curve.best_epoch ? ", the selected one" : ""}, layer ${curve.layer}, seed ${curve.seed}`,
      `${state.curve === "loss" ? "training loss" : `${curve.split} ${source.figure} (%)`} ${numberText(curve[state.curve][number])}`,
      `cell ${curve.cell}`] })).filter(({ y }) => y !== null);
    return { head: headOf.get(curve.head), line: true, plain: true, points };
  }).filter(({ points }) => points.length);
  if (!data.curves.some((each) => each.source === source.name && each.shots === state.shots)) return null;
  const split = found.length ? found[0].split : "held-out";
  return { name: "curves", title: `Training${titleOf(source)}`, note: `${dataOf(state)}Selected cells at their selected layer. Rings mark selected epochs.`, series,
    xLabel: "epoch", yLabel: state.curve === "loss" ? "training loss" : `${split} ${source.figure} (%)` };
}
