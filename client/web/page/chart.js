// SPDX-License-Identifier: Apache-2.0

/**
 * Two small charts as SVG: own keys and credits, stacked by day, and as bars by name. They are
 * pictures to assistive technology; the tables beside them hold the numbers.
 *
 * @module chart
 */

import { h, svg } from "./dom.js";

const WIDTH = 420;
const HEIGHT = 132;
const FOOT = 18;
const GAP = 3;
const BAR_HEIGHT = 8;
const LEAST = 2; // so that little is not nothing

/**
 * @param {Array<{day: string, own: number, credits: number}>} days
 * @param {(value: number) => string} text
 * @param {string} summary
 */
export function stackedDays(days, text, summary) {
  const top = Math.max(...days.map((day) => day.own + day.credits), 1);
  const step = WIDTH / days.length;
  const room = HEIGHT - FOOT;
  const tall = (value) => (value ? Math.max(LEAST, (value / top) * (room - GAP)) : 0);
  const columns = days.map((day, place) => {
    const x = place * step + GAP / 2;
    const low = tall(day.own);
    const high = tall(day.credits);
    const bar = (y, height, kind) => height > 0 && svg("rect", { x, y, height, rx: 2,
      width: step - GAP, class: `fill-${kind}` });
    return svg("g", {}, svg("title", {}, `${day.day}: ${text(day.own)} own keys, `
      + `${text(day.credits)} credits`),
      svg("rect", { x, y: 0, width: step - GAP, height: room, class: "fill-none" }),
      bar(room - low, low, "own"), bar(room - low - high - (low && high ? 1 : 0), high, "credits"));
  });
  const label = (place, anchor) => svg("text", { x: place * step + (anchor === "end" ? step : 0),
    y: HEIGHT - 3, "text-anchor": anchor }, dayText(days[place].day));
  return svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "chart", role: "img",
    "aria-label": summary },
    svg("line", { x1: 0, x2: WIDTH, y1: room + 0.5, y2: room + 0.5, class: "axis" }), columns,
    label(0, "start"), label(days.length - 1, "end"));
}

/**
 * @param {Array<{name: string, own: number, credits: number}>} items The largest first.
 * @param {(value: number) => string} text
 */
export function barChart(items, text) {
  const top = Math.max(...items.map((item) => item.own + item.credits), 1);
  return h("ul", { class: "bars" }, items.map((item) => {
    const own = (item.own / top) * WIDTH;
    const all = ((item.own + item.credits) / top) * WIDTH;
    return h("li", {}, h("span", { class: "bar-name" }, item.name),
      h("span", { class: "number" }, text(item.own + item.credits)),
      svg("svg", { viewBox: `0 0 ${WIDTH} ${BAR_HEIGHT}`, class: "bar", "aria-hidden": "true",
        preserveAspectRatio: "none" },
      svg("rect", { width: WIDTH, height: BAR_HEIGHT, class: "fill-track" }),
      svg("rect", { width: all, height: BAR_HEIGHT, class: "fill-credits" }),
      svg("rect", { width: own, height: BAR_HEIGHT, class: "fill-own" })));
  }));
}

function dayText(day) {
  return new Date(`${day}T00:00:00Z`).toLocaleDateString("en-GB",
    { day: "numeric", month: "short", timeZone: "UTC" });
}
