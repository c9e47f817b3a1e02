// SPDX-License-Identifier: Apache-2.0

/**
 * Usage: by day and by model, as charts and as tables.
 *
 * @module usage
 */

import { barChart, stackedDays } from "./chart.js";
import { h, radios, show } from "./dom.js";
import { USAGE_DAYS, providerOf, state } from "./state.js";
import { OWN_KEY, count, credits, usd } from "./words.js";

const MODELS_SHOWN = 6;
const MEASURES = {
  requests: { label: "Requests", of: (row) => Number(row.attemptCount ?? 0),
    text: (value) => count(value, "request") },
  charged: { label: "Credits", of: (row) => Number(row.chargedNanoCredits ?? 0), text: credits },
  vendor: { label: "Vendor cost", of: (row) => Number(row.vendorCostNanoUsd ?? 0), text: usd },
};
let measure = "requests";

/** Draws usage. */
export function drawUsage() {
  const { of, text, label } = MEASURES[measure];
  show(document.getElementById("usage"),
    h("div", { class: "card-head" }, h("h2", { id: "usage-title", tabindex: "-1" }, "Usage"),
      h("p", { class: "hint" }, `Last ${USAGE_DAYS} days, by UTC day`)),
    state.usage.length === 0
      ? h("p", { class: "empty" }, "Nothing yet. Try something beside this.")
      : [
        radios({ name: "measure", legend: "Measured by", kind: "segments", value: measure,
          options: Object.entries(MEASURES).map(([value, one]) => ({ value, label: one.label })),
          onChange: (value) => { measure = value; drawUsage(); } }),
        drawTotals(of, text),
        drawDays(of, text, label),
        drawModels(of, text),
      ]);
}

function drawTotals(of, text) {
  const side = (own) => sum(state.usage.filter((row) => (row.funding === OWN_KEY) === own), of);
  return h("ul", { class: "legend" },
    h("li", { class: "own" }, h("span", { class: "swatch" }), "Own keys ", h("b", {}, text(side(true)))),
    h("li", { class: "credits" }, h("span", { class: "swatch" }), "Credits ",
      h("b", {}, text(side(false)))));
}

function drawDays(of, text, label) {
  const days = state.usageDays.map((day) => {
    const rows = state.usage.filter((row) => row.day === day);
    const own = sum(rows.filter((row) => row.funding === OWN_KEY), of);
    return { day, own, credits: sum(rows, of) - own };
  });
  const busy = days.filter((day) => day.own + day.credits > 0);
  return h("figure", {},
    stackedDays(days, text, `${label} by day: ${text(sum(days, (day) => day.own))} on own keys and `
      + `${text(sum(days, (day) => day.credits))} on credits over ${count(busy.length, "day")}.`),
    table("table-days", "By day", ["Day", "Own keys", "Credits"],
      busy.map((day) => [day.day, text(day.own), text(day.credits)])));
}

function drawModels(of, text) {
  const byModel = new Map();
  for (const row of state.usage) {
    const name = `${row.model} at ${providerOf(row.provider).displayName}`;
    const item = byModel.get(name) ?? { name, own: 0, credits: 0 };
    item[row.funding === OWN_KEY ? "own" : "credits"] += of(row);
    byModel.set(name, item);
  }
  const models = [...byModel.values()].sort((a, b) => b.own + b.credits - a.own - a.credits);
  return h("figure", {}, h("h3", {}, "By model"),
    barChart(models.slice(0, MODELS_SHOWN), text),
    table("table-models", "By model", ["Model", "Own keys", "Credits"],
      models.map((one) => [one.name, text(one.own), text(one.credits)])));
}

function table(id, caption, heads, rows) {
  return h("details", { id }, h("summary", {}, "As a table"),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
      h("table", {}, h("caption", { class: "sr-only" }, caption),
        h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
        h("tbody", {}, rows.map(([first, ...rest]) => h("tr", {},
          h("th", { scope: "row" }, first), rest.map((cell) => h("td", {}, cell))))))));
}

function sum(items, of) {
  return items.reduce((total, item) => total + of(item), 0);
}
