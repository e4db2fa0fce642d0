"use strict";
// Elements and numbers. Every text of the service reaches the page through `textContent` or a text node, never as HTML: a key is
// whatever a user of the service has sent.

/** Makes an element: properties, `data-*` and `aria-*` attributes, listeners as `onclick`, then children (nodes or texts). */
function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.includes("-") || name === "role" || name === "for") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.flat(Infinity).filter(child => child !== null && child !== undefined && child !== false));
  return element;
}

/** Sets a text only where it differs: a selection in it survives, and nothing is laid out again. */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A key as it is shown: one without a letter has quotes, so that there is something to click. */
const shownKey = key => key?.trim() ? key : `\u201c${key ?? ""}\u201d`;

const at = id => document.getElementById(id);
const plural = (count, one, many = `${one}s`) => `${whole(count)} ${count === 1 ? one : many}`;

/** Groups of three digits: 1,204,233. */
const whole = number => Math.round(number).toLocaleString("en-US");

/** At most four characters and a unit: 9,999, 12.3k, 4.56M. */
function short(number) {
  if (number < 10_000) return whole(number);
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    // 999,950 would otherwise become 1000k.
    if (number >= size * .9995) return (number / size).toPrecision(3) + unit;
  }
  return whole(number);
}

/** A rate: 0, 0.2, 12.5, 340, 12.3k. */
function rate(number) {
  if (number === null || number === undefined) return "\u2013";
  if (number === 0) return "0";
  if (number < .05) return "<0.1";
  return number < 100 ? number.toFixed(1).replace(/\.0$/, "") : short(number);
}

/** A duration in milliseconds: 40 ms, 1.2 s, 42 s, 3 m 20 s, 2 h 5 m, 3 d 4 h. */
function duration(milliseconds) {
  if (milliseconds === null || milliseconds === undefined) return "\u2013";
  if (milliseconds < 1_000) return `${Math.round(milliseconds)} ms`;
  if (milliseconds < 10_000) return `${(milliseconds / 1_000).toFixed(1)} s`;
  const seconds = Math.floor(milliseconds / 1_000), minutes = Math.floor(seconds / 60), hours = Math.floor(minutes / 60);
  if (minutes < 1) return `${seconds} s`;
  if (hours < 1) return `${minutes} m ${seconds % 60} s`;
  if (hours < 24) return `${hours} h ${minutes % 60} m`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3 });
const CALENDAR = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });
const moment = milliseconds => CALENDAR.format(new Date(milliseconds));

/** The time of day of an event. Its title has the day. */
function clock(milliseconds) {
  const date = new Date(milliseconds);
  return el("time", { dateTime: date.toISOString(), title: moment(milliseconds) }, CLOCK.format(date));
}

/** A bar of what is queued of what fits. */
function meter(label) {
  const inside = el("span"), bar = el("span", { className: "meter", role: "meter", "aria-label": label, "aria-valuemin": 0 }, inside);
  bar.set = (value, limit) => {
    const share = limit > 0 ? Math.min(value / limit, 1) : 0;
    inside.style.width = `${share * 100}%`;
    bar.classList.toggle("half", share >= .5 && share < .9);
    bar.classList.toggle("full", share >= .9);
    bar.setAttribute("aria-valuenow", value);
    bar.setAttribute("aria-valuemax", limit);
  };
  return bar;
}

const SVG = "http://www.w3.org/2000/svg";

/** A line of points over time, the newest at the right edge. A second line may lie on the first: crashes among exits. */
function spark(points, className = "") {
  const HEIGHT = 100;
  const svg = document.createElementNS(SVG, "svg");
  const [area, line, second] = ["area", "", "second"].map(name => {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", name);
    return path;
  });
  const title = document.createElementNS(SVG, "title");
  svg.append(title, area, line, second);
  svg.setAttribute("class", `spark ${className}`);
  svg.setAttribute("viewBox", `0 0 ${points - 1} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  const draw = (values, top) => values.map((value, index) => {
    const x = points - values.length + index, y = HEIGHT - 4 - value / top * (HEIGHT - 12);
    return `${index ? "L" : "M"}${x} ${y.toFixed(1)}`;
  }).join("");
  svg.set = (values, of, other = [], limit = 0) => {
    const shown = values.slice(-points), top = Math.max(limit, ...shown, ...other.slice(-points), 1e-9);
    const path = shown.length > 1 ? draw(shown, top) : "";
    line.setAttribute("d", path);
    area.setAttribute("d", path && `${path}L${points - 1} ${HEIGHT}L${points - shown.length} ${HEIGHT}Z`);
    second.setAttribute("d", other.some(value => value > 0) ? draw(other.slice(-points), top) : "");
    const most = shown.length ? Math.max(...shown) : 0, least = shown.length ? Math.min(...shown) : 0;
    setText(title, `${of}: ${rate(least)} to ${rate(most)}`);
  };
  return svg;
}

/** Puts children into this order, and moves only those that lie elsewhere: what has the focus keeps it. */
function arrange(parent, children) {
  const focused = document.activeElement;
  const wanted = new Set(children);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  children.forEach((child, index) => {
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
  });
  if (focused && focused !== document.activeElement && parent.contains(focused)) focused.focus({ preventScroll: true });
}

const empty = (title, ...more) => el("div", { className: "empty" }, el("strong", {}, title), ...more.map(text => el("span", {}, text)));

/** Where there is nothing, because the service could not say it. */
function failure(message) {
  return el("p", { className: "failure", role: "alert" }, message);
}
