"use strict";
// Elements of the page. Every text goes in as a text node, so no name can become an element.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

const make = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const draw = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

/** A labelled list of choices [value, words]. */
function makeSelect(label, choices, onchange) {
  const select = make("select", { onchange: () => onchange(select.value) },
    ...choices.map(([value, words]) => make("option", { value }, words)));
  return make("label", {}, label, select);
}

/** A figure with one decimal, as the tables of the report round it: exact halves, such as 84.25, to the even digit. */
function percentText(value) {
  if (value === null) return "";
  const tenths = Math.floor(10 * value);
  return (Math.abs((4 * value) % 2) === 1 ? (tenths + (tenths & 1)) / 10 : value).toFixed(1);
}
function numberText(value) { return value === null ? "" : String(Number(value.toPrecision(4))); }
const counts = new Intl.NumberFormat("en");
function countText(value) { return value === null ? "" : counts.format(value); }
function shortText(value) {
  const [unit, word] = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]].find(([each]) => value >= each) || [1, ""];
  return `${Number((value / unit).toPrecision(3))}${word}`;
}
