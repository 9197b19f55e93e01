// One chart: axes, lines with bands, points with bars, and the mark under the pointer or the arrow keys.

const HEIGHT = 330, LEFT = 52, RIGHT = 14, TOP = 14, BOTTOM = 46;
let WIDTH = 560; // of a drawing; narrow pages have narrower ones, so that texts keep their size
const REACH = 40; // how far from a mark the pointer may be, in units of the drawing
const SHAPES = { // markers of the printed figures, of about equal area, around 0
  o: "M4.2 0A4.2 4.2 0 1 1-4.2 0A4.2 4.2 0 1 1 4.2 0Z", s: "M-3.8-3.8H3.8V3.8H-3.8Z", D: "M0-5.2L5.2 0L0 5.2L-5.2 0Z",
  d: "M0-5.6L3.6 0L0 5.6L-3.6 0Z", "^": "M0-5L4.8 3.8H-4.8Z", v: "M0 5L4.8-3.8H-4.8Z", "<": "M-5 0L3.8-4.8V4.8Z", ">": "M5 0L-3.8-4.8V4.8Z",
  P: "M-1.7-5H1.7V-1.7H5V1.7H1.7V5H-1.7V1.7H-5V-1.7H-1.7Z", X: "M-4.6-2.4L-2.4-4.6L0-2.2L2.4-4.6L4.6-2.4L2.2 0L4.6 2.4L2.4 4.6L0 2.2L-2.4 4.6L-4.6 2.4L-2.2 0Z",
  p: "M0-5L4.8-1.5L2.9 4.1H-2.9L-4.8-1.5Z", h: "M0-5L4.3-2.5V2.5L0 5L-4.3 2.5V-2.5Z",
  "*": "M0-6L1.6-2H5.7L2.5.8L3.7 5L0 2.6L-3.7 5L-2.5.8L-5.7-2H-1.6Z",
};

/** A group in the colour of a head, which a dark page lightens. */
function headGroup(head, ...children) {
  const group = draw("g", { class: "head" }, ...children);
  group.style.setProperty("--head", head.color);
  return group;
}

const markerOf = (head, x, y) => draw("path", { class: "mark", d: SHAPES[head.marker] || SHAPES.o, transform: `translate(${x} ${y})` });

/** Round values from low to high, about `n` of them. */
function ticksOf(low, high, n) {
  const rough = (high - low) / n, unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * unit).find((each) => each >= rough);
  const ticks = [];
  for (let at = Math.ceil(low / step); at * step <= high + 1e-9 * step; at++) ticks.push(Number((at * step).toPrecision(12)));
  return ticks;
}

function logTicks(low, high) {
  const ticks = [];
  for (let power = Math.floor(low); power <= high; power++)
    for (const digit of [1, 2, 5]) {
      const place = power + Math.log10(digit);
      if (place >= low && place <= high) ticks.push([place, shortText(digit * 10 ** power)]);
    }
  const few = ticks.filter(([place]) => Math.abs(place - Math.round(place)) < 1e-9);
  return few.length > 2 ? few : ticks;
}

/** The range of values with a margin. */
function rangeOf(values, margin) {
  const low = Math.min(...values), high = Math.max(...values);
  const room = (high - low || 1) * margin;
  return [low - room, high + room];
}

/**
 * Draw a chart.
 *
 * chart: title, note, xLabel, yLabel, xTicks [[place, words]] or log (places are then log10), series, and where there are such:
 * chance, front [[x, y]], gap (a place between two parts of the axis).
 * A series: head, line (whether points are joined), points [{x, y, low, high, ring, lines}]; lines are read in the tip.
 */
function drawChart(chart) {
  const points = chart.series.flatMap((each) => each.points.map((point) => ({ ...point, head: each.head })));
  if (!points.length) return makeFigure(chart, make("p", { class: "hint" }, "No head is shown. Press one in the legend."));
  const ys = points.flatMap(({ y, low, high }) => [y, low ?? y, high ?? y]);
  let [bottom, top] = rangeOf(ys, 0.06);
  if (chart.chance != null && chart.chance < bottom && chart.chance > bottom - 0.6 * (top - bottom)) bottom = chart.chance - 0.04 * (top - bottom);
  const places = [...points.map(({ x }) => x), ...(chart.xTicks || []).map(([place]) => place)];
  const [left, right] = rangeOf(places, 0.06);
  const atX = (x) => LEFT + ((x - left) / (right - left)) * (WIDTH - LEFT - RIGHT);
  const atY = (y) => HEIGHT - BOTTOM - ((y - bottom) / (top - bottom)) * (HEIGHT - TOP - BOTTOM);
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, tabindex: 0, role: "img", "aria-label": `${chart.title}. Arrow keys read its points.` });
  drawAxes(svg, chart, { atX, atY, bottom, top, left, right });
  if (chart.front) svg.append(draw("path", { class: "front", d: steps(chart.front, atX, atY) }));
  for (const series of chart.series) svg.append(drawSeries(series, atX, atY));
  const drawn = points.map((point) => ({ ...point, px: atX(point.x), py: atY(point.y) }));
  for (const { ring, px, py } of drawn) if (ring) svg.append(draw("circle", { class: "ring", cx: px, cy: py, r: 8 }));
  answerPointer(svg, drawn);
  return makeFigure(chart, svg);
}

function makeFigure(chart, content) {
  return make("figure", { "data-name": chart.name }, make("figcaption", {}, chart.title, make("small", {}, chart.note)), content);
}

function drawAxes(svg, chart, { atX, atY, bottom, top, left, right }) {
  for (const y of ticksOf(bottom, top, 5)) svg.append(
    draw("line", { class: "gridline", x1: LEFT, x2: WIDTH - RIGHT, y1: atY(y), y2: atY(y) }),
    draw("text", { x: LEFT - 6, y: atY(y) + 4, "text-anchor": "end" }, String(y)));
  const all = chart.log ? logTicks(left, right) : chart.xTicks || ticksOf(left, right, 8).map((x) => [x, String(x)]);
  const longest = Math.max(...all.map(([, words]) => Math.min(words.length, 14)));
  const every = Math.ceil((all.length * (longest * 7 + 10)) / (WIDTH - LEFT - RIGHT));
  all.filter((_, number) => number % every === 0).forEach(([x, words]) => svg.append(
    draw("line", { class: "axis", x1: atX(x), x2: atX(x), y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM + 4 }),
    draw("text", { x: atX(x), y: HEIGHT - BOTTOM + 17, "text-anchor": "middle" }, words.length > 14 ? `${words.slice(0, 13)}…` : words)));
  if (chart.gap != null) svg.append(draw("line", { class: "chance", x1: atX(chart.gap), x2: atX(chart.gap), y1: TOP, y2: HEIGHT - BOTTOM }));
  if (chart.chance != null && chart.chance >= bottom && chart.chance <= top) svg.append(
    draw("line", { class: "chance", x1: LEFT, x2: WIDTH - RIGHT, y1: atY(chart.chance), y2: atY(chart.chance) }),
    draw("text", { x: WIDTH - RIGHT, y: atY(chart.chance) - 4, "text-anchor": "end" }, `chance, ${Number(chart.chance.toPrecision(3))} %`));
  svg.append(
    draw("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }),
    draw("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 8, "text-anchor": "middle" }, chart.xLabel),
    draw("text", { transform: `translate(13 ${(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)`, "text-anchor": "middle" }, chart.yLabel));
}

function drawSeries({ head, line, points, plain }, atX, atY) {
  const sorted = [...points].sort((one, two) => one.x - two.x), group = headGroup(head);
  const path = (ends) => ends.map(([x, y], number) => `${number ? "L" : "M"}${atX(x).toFixed(1)} ${atY(y).toFixed(1)}`).join("");
  const ranged = sorted.filter(({ low }) => low != null);
  const joined = line && sorted.length > 1;
  if (joined && ranged.length > 1) group.append(draw("path", { class: "band",
    d: `${path([...ranged.map(({ x, high }) => [x, high]), ...ranged.reverse().map(({ x, low }) => [x, low])])}Z` }));
  if (joined) group.append(draw("path", { class: "line", "stroke-dasharray": head.dashes || null, d: path(sorted.map(({ x, y }) => [x, y])) }));
  else for (const { x, low, high } of ranged) group.append(draw("path", { class: "bar", d: path([[x, low], [x, high]]) }));
  if (!plain) for (const { x, y } of sorted) group.append(markerOf(head, atX(x), atY(y)));
  return group;
}

const steps = (front, atX, atY) => front.map(([x, y], number) => number ? `H${atX(x)}V${atY(y)}` : `M${atX(x)} ${atY(y)}`).join("");

/** Show the tip of the mark nearest to the pointer, or of the next one by arrow keys, which go from left to right. */
function answerPointer(svg, drawn) {
  const ordered = [...drawn].sort((one, two) => one.px - two.px || one.py - two.py);
  const current = draw("circle", { class: "current", r: 10, visibility: "hidden" });
  let at = -1;
  svg.append(current);
  function choose(point) {
    at = ordered.indexOf(point);
    current.setAttribute("visibility", point ? "visible" : "hidden");
    if (!point) return hideTip();
    current.setAttribute("cx", point.px);
    current.setAttribute("cy", point.py);
    const box = svg.getBoundingClientRect(), scale = box.width / WIDTH;
    showTip([point.head.name, ...point.lines], box.left + point.px * scale, box.top + point.py * scale);
  }
  function toPointer(event) {
    const box = svg.getBoundingClientRect(), scale = WIDTH / box.width;
    const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
    let nearest = null, least = REACH;
    for (const point of ordered) {
      const distance = Math.hypot(point.px - x, point.py - y);
      if (distance < least) [nearest, least] = [point, distance];
    }
    choose(nearest);
  }
  svg.addEventListener("pointermove", toPointer);
  svg.addEventListener("pointerdown", toPointer);
  svg.addEventListener("pointerleave", () => choose(null));
  svg.addEventListener("blur", () => choose(null));
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (event.key === "Escape") choose(null);
    if (!step) return;
    event.preventDefault();
    choose(ordered[at < 0 && step < 0 ? ordered.length - 1 : (at + step + ordered.length) % ordered.length]);
  });
}

function hideTip() { byId("tip").hidden = true; }

function showTip([name, ...lines], x, y) {
  const tip = byId("tip");
  tip.replaceChildren(make("b", {}, name), ...lines.map((line) => make("span", { class: line.startsWith("cell ") ? "cell" : null }, line)));
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = Math.max(8, Math.min(x + 14, innerWidth - box.width - 8));
  const top = y + 16 + box.height < innerHeight ? y + 16 : Math.max(8, y - box.height - 16);
  tip.style.transform = `translate(${left}px, ${top}px)`;
}
