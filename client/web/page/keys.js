// SPDX-License-Identifier: Apache-2.0

/**
 * The account's keys: in order, each with its health and what can be done.
 *
 * @module keys
 */

import { call, newId } from "./api.js";
import {
  deleteKey, moveToBrowser, moveToServer, orderKeys, switchKey, testKey,
} from "./deeds.js";
import { button, h, say, show } from "./dom.js";
import { attempt, sentence } from "./failure.js";
import { ask, nameOf, openAddForm, openEditForm, openReplaceForm, tested } from "./keyforms.js";
import { load, providerOf, state } from "./state.js";
import { CLIENT_HELD, DISABLED, HEALTH, TEST_RESULTS, VALID, short, usd, when } from "./words.js";

const found = new Map(); // what the last test of a key found, by name

/** Draws the keys. */
export function drawKeys() {
  const add = button("Add a key", openAddForm, { class: "primary", id: "add-key" });
  show(document.getElementById("keys"),
    h("div", { class: "card-head" }, h("h2", { id: "keys-title", tabindex: "-1" }, "Your keys"), add),
    state.keys.length > 0 && state.payer.billingMode === "BILLING_MODE_CREDITS"
      && h("p", { class: "hint aside" }, "Stored, and not used: credits pay for everything. ",
        h("a", { href: "#payer" }, "Change who pays")),
    state.keys.length === 0
      ? h("p", { class: "empty" }, "No keys yet. Add one from OpenAI, Anthropic, Google or another "
        + "provider, and requests can run on your own account there.")
      : h("ol", { class: "keys" }, state.keys.map(drawKey)),
    state.keys.length > 0 && drawSettings());
}

function drawKey(key, place) {
  const off = key.state === DISABLED;
  const id = short(key.name);
  return h("li", { class: `key ${off ? "off" : ""}`, id: `key-${id}` },
    h("div", { class: "key-head" },
      h("h3", {}, providerOf(key.provider).displayName,
        key.label && [" ", h("span", { class: "key-label" }, key.label)]),
      h("code", { class: "key-hint" }, key.hint || "hint withheld")),
    h("p", { class: "badges" }, badges(key)),
    off ? h("p", { class: "health" }, "Switched off; nothing is lost.") : drawHealth(key),
    drawFound(key),
    h("div", { class: "actions" }, mainActions(key, id, off), moreActions(key, id, place)));
}

function badges(key) {
  const away = key.residence === CLIENT_HELD && !state.heldHere.has(key.name);
  const residence = key.residence === CLIENT_HELD
    ? (away ? "In another browser" : "In this browser") : "On the server";
  return [
    key.active ? h("span", { class: `badge ${key.state === DISABLED ? "" : "own"}` }, "Active")
      : h("span", { class: "badge" }, state.settings.useBackups ? "Backup" : "Not used"),
    h("span", { class: `badge ${away ? "warn" : ""}` }, residence),
    key.state === DISABLED && h("span", { class: "badge warn" }, "Disabled"),
    key.alwaysUse && h("span", { class: "badge" }, "Alone"),
    key.monthlyLimitNanoUsd && h("span", { class: "badge" }, `≤ ${usd(key.monthlyLimitNanoUsd)} a month`),
    key.defaultModel && h("span", { class: "badge" }, key.defaultModel),
  ];
}

function drawHealth(key) {
  return (key.health ?? []).map((one) => {
    const { label, kind } = HEALTH[one.state];
    const until = one.untilTime && Number(one.remainingMillis ?? 0) > 0
      && `${again(one.state)} ${when(one.untilTime)}`;
    return h("p", { class: `health ${kind}` },
      h("strong", {}, one.model ? `${one.model}: ${label.toLowerCase()}` : label, until),
      one.reason && ` ${sentence(one.reason)}`,
      one.nextStep && h("span", { class: "next" }, ` ${sentence(one.nextStep)}`));
  });
}

function again(state) {
  return state === "HEALTH_STATE_COOLING" ? " until" : ", tried again at";
}

function drawFound(key) {
  const test = found.get(key.name);
  if (!test) return null;
  return h("p", { class: `found ${TEST_RESULTS[test.result].kind}` },
    h("strong", {}, `Test at ${when(test.testTime)}: ${tested(test)}`),
    test.detail && test.result !== VALID && ` ${sentence(test.detail)}`,
    Number(test.costNanoUsd ?? 0) > 0 && ` It cost ${usd(test.costNanoUsd)}.`);
}

function mainActions(key, id, off) {
  const about = (what) => ({ id: `${what}-${id}`, "aria-label": `${label(what)} ${nameOf(key)}` });
  const turn = off ? "Enable" : "Disable";
  return [
    usable(key) && !off && button("Test", () => attempt(() => test(key)), about("test")),
    !key.active && !off && button("Make active", () => change(key, "ActivateKey",
      `${nameOf(key)} is now the active key.`), about("activate")),
    button(turn, () => change(key, `${turn}Key`,
      `${nameOf(key)} ${off ? "serves again" : "is switched off"}.`),
    { id: `switch-${id}`, "aria-label": `${turn} ${nameOf(key)}` }),
    button("Replace", () => openReplaceForm(key), about("replace")),
  ];
}

function label(what) {
  return { test: "Test", activate: "Make active:", replace: "Replace",
    edit: "Edit", up: "Move up:", down: "Move down:", move: "Move", delete: "Delete" }[what];
}

function moreActions(key, id, place) {
  const about = (what) => ({ id: `${what}-${id}`, "aria-label": `${label(what)} ${nameOf(key)}` });
  return h("details", { class: "more", id: `more-of-${id}` },
    h("summary", { id: `more-${id}`, "aria-label": `More for ${nameOf(key)}` }, "More"),
    h("div", { class: "more-row" },
      button("Edit", () => openEditForm(key), about("edit")),
      button("Move up", () => reorder(place, place - 1), { ...about("up"), disabled: place === 0 }),
      button("Move down", () => reorder(place, place + 1),
        { ...about("down"), disabled: place === state.keys.length - 1 }),
      moveButton(key, about("move")),
      button("Delete", () => ask({
        title: `Delete ${nameOf(key)}?`, submit: "Delete it", danger: true,
        text: "Its secret is destroyed at once, here and in every backup once its key-encryption key "
          + "is retired. What was done with it stays in the records. Requests that it served fail or "
          + "fall back, as you chose.",
        action: async () => {
          await deleteKey(key);
          await load("keys");
          say(`Deleted ${nameOf(key)}.`);
        },
      }), { ...about("delete"), class: "danger-text" })));
}

function moveButton(key, attributes) {
  if (key.residence !== CLIENT_HELD) {
    return button("Move to this browser", () => ask({
      title: `Move ${nameOf(key)} into this browser?`, submit: "Move it",
      text: "It is sealed to this browser and the server's copy is destroyed ten minutes later. From "
        + "then on it serves only what you start from here; clearing this site's data loses it.",
      action: () => move(key, moveToBrowser, "It lives in this browser now."),
    }), attributes);
  }
  return state.heldHere.has(key.name) && button("Move to the server", () => ask({
    title: `Move ${nameOf(key)} to the server?`, submit: "Move it",
    text: "It is stored there encrypted, and serves jobs and the product's background work too.",
    action: () => move(key, moveToServer, "It lives on the server now."),
  }), attributes);
}

function drawSettings() {
  // The one that is set stands there also when its last key is gone: then none serves.
  const providers = [...new Set([...state.keys.map((key) => key.provider),
    state.settings.activeProvider].filter(Boolean))];
  const active = h("select", { id: "active-provider" },
    h("option", { value: "" }, "The first key's"),
    providers.map((id) => h("option", { value: id, selected: id === state.settings.activeProvider },
      providerOf(id).displayName)));
  active.addEventListener("change", () => attempt(() => setSettings(
    { activeProvider: active.value }, "activeProvider",
    `Requests that name no model go to ${active.selectedOptions[0].textContent} now.`)));
  const backups = h("input", { type: "checkbox", id: "use-backups",
    checked: state.settings.useBackups });
  backups.addEventListener("change", () => attempt(() => setSettings(
    { useBackups: backups.checked }, "useBackups",
    `The other keys are ${backups.checked ? "backups" : "not used"} now.`)));
  return h("div", { class: "key-settings" },
    h("label", { for: "active-provider" }, "Requests that name no model go to"), active,
    h("label", { class: "check", for: "use-backups" }, backups,
      h("span", {}, "Use the other keys as backups, in this order")));
}

async function setSettings(fields, mask, said) {
  const { settings } = await call("keyvault/UpdateSettings", {
    settings: { name: `${state.account}/settings`, ...fields }, updateMask: mask,
    requestId: newId(),
  });
  state.settings = settings;
  await load("keys");
  say(said);
}

function usable(key) {
  return key.residence !== CLIENT_HELD || state.heldHere.has(key.name);
}

async function test(key) {
  const result = await testKey(key);
  found.set(key.name, result);
  await load("keys");
  say(`${nameOf(key)}: ${tested(result)}`);
}

async function change(key, method, said) {
  if (await attempt(() => switchKey(key, method))) {
    await load("keys");
    say(said);
  }
}

async function move(key, there, said) {
  await there(key);
  await load("keys");
  say(said);
}

async function reorder(from, to) {
  const keys = [...state.keys];
  const [key] = keys.splice(from, 1);
  keys.splice(to, 0, key);
  if (await attempt(() => orderKeys(keys))) {
    await load("keys");
    say(`${nameOf(key)} is number ${to + 1} of ${keys.length} now.`);
  }
}
