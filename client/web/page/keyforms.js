// SPDX-License-Identifier: Apache-2.0

/**
 * The dialogs about keys: add, replace, edit, and the questions before what cannot be undone.
 *
 * @module keyforms
 */

import { addKey, canHoldKeys, replaceKey, updateKey } from "./deeds.js";
import { button, chosen, field, h, radios, say, whileBusy } from "./dom.js";
import { failureNotice } from "./failure.js";
import { load, providerOf, state } from "./state.js";
import { CLIENT_HELD, TEST_RESULTS, VALID } from "./words.js";

const SERVER = "RESIDENCE_SERVER";
const NANO = 1_000_000_000;
const FIRST_PROVIDER = "openai"; // the one that most people come with
const LIMIT_USD_MAX = 1_000_000;
const STRUCTURED = new Set(["azure", "amazon-bedrock", "google-vertex"]);
const OVERLAPS = [
  { value: "0", label: "At once" },
  { value: "3600", label: "In an hour" },
  { value: "86400", label: "In a day" },
];

/** Asks for a new key. */
export async function openAddForm() {
  const holds = await canHoldKeys();
  const provider = select("add-provider", state.providers.map((one) =>
    ({ value: one.providerId, label: one.displayName })), FIRST_PROVIDER);
  const about = h("div", { class: "hint", id: "add-about" });
  const secretPlace = h("div", {});
  const modelPlace = h("div", {});
  const rest = fieldsOf("add", {});
  const unverified = h("input", { type: "checkbox", id: "add-unverified" });
  const draw = () => {
    const one = providerOf(provider.value);
    about.replaceChildren(`${one.keyShape} `, h("a", { href: one.keyPageUrl, target: "_blank",
      rel: "noreferrer noopener" }, `Make one at ${one.displayName}`));
    secretPlace.replaceChildren(secretField("add", one.providerId, "Key"));
    modelPlace.replaceChildren(modelField("add", one, ""));
  };
  provider.addEventListener("change", draw);
  draw();
  dialog({
    id: "add", title: "Add a key", submit: "Test and add",
    body: [
      field("Provider", provider), secretPlace, about, rest.label,
      radios({ name: "add-residence", legend: "Where it lives", kind: "choices", value: SERVER,
        options: [
          { value: SERVER, label: "On the server",
            about: "Encrypted. It also serves jobs and the product's own background work." },
          { value: CLIENT_HELD, label: "In this browser only", disabled: !holds,
            about: holds
              ? "Sealed here and stored on no server; it serves what you start from this browser."
              : "This browser is too old for it: Chrome 133, Firefox 130 or Safari 17 can." },
        ] }),
      h("details", {}, h("summary", {}, "More: default model, limit, untested"),
        modelPlace, rest.limit, rest.always,
        checkbox(unverified, "Store it even if the provider cannot be asked now")),
    ],
    async onSubmit(secret) {
      const { key, test } = await addKey({
        key: { provider: provider.value, residence: chosen("add-residence"), ...rest.values() },
        secret, storeUnverified: unverified.checked,
      });
      await load("keys");
      say(`Added ${providerOf(key.provider).displayName}. ${tested(test)}`);
    },
  });
}

/** Asks for a key's new secret. */
export function openReplaceForm(key) {
  const one = providerOf(key.provider);
  const overlap = key.residence !== CLIENT_HELD && radios({
    name: "replace-overlap", legend: "The old key is destroyed", kind: "segments", value: "0",
    options: OVERLAPS,
  });
  dialog({
    id: "replace", title: `Replace ${nameOf(key)}`, submit: "Test and replace",
    body: [secretField("replace", key.provider, "New key"),
      h("p", { class: "hint" }, `${one.keyShape ?? ""} Its place, label and limit stay.`), overlap],
    async onSubmit(secret) {
      const { test } = await replaceKey(
        { key, secret, overlapSeconds: Number(chosen("replace-overlap") ?? 0) });
      await load("keys");
      say(`Replaced ${nameOf(key)}. ${tested(test)}`);
    },
  });
}

/** Asks for a key's fields. */
export function openEditForm(key) {
  const fields = fieldsOf("edit", key);
  const body = [fields.label, modelField("edit", providerOf(key.provider), key.defaultModel ?? ""),
    fields.limit, fields.always];
  dialog({
    id: "edit", title: `Edit ${nameOf(key)}`, submit: "Save", body,
    async onSubmit() {
      await updateKey(key, { label: null, defaultModel: null, monthlyLimitNanoUsd: null,
        alwaysUse: false, ...fields.values() });
      await load("keys");
      say(`Saved ${nameOf(key)}.`);
    },
  });
}

/** Asks before something; does it where the answer is yes. */
export function ask({ title, text, submit, danger = false, action }) {
  dialog({ id: "ask", title, submit, danger, body: [h("p", {}, text)], onSubmit: action });
}

/** What people call a key. */
export function nameOf(key) {
  const { displayName } = providerOf(key.provider);
  return key.label ? `${displayName}, ${key.label}` : displayName;
}

/** What a live test found, as a sentence. */
export function tested(test) {
  if (!test?.result) return "It was not tested.";
  const checked = test.creditChecked && test.result === VALID;
  return `${TEST_RESULTS[test.result].label}${checked ? " and has credit" : ""}.`;
}

function dialog({ id, title, body, submit, danger = false, onSubmit }) {
  const opener = document.activeElement;
  const trouble = h("div", { "aria-live": "assertive" });
  const cancel = button("Cancel", () => box.close(), { class: "quiet" });
  const go = h("button", { type: "submit", class: danger ? "danger" : "primary", id: `${id}-go` },
    submit);
  const form = h("form", { autocomplete: "off", method: "dialog" },
    h("h2", { id: `${id}-title` }, title), body, trouble,
    h("div", { class: "actions end" }, cancel, go));
  const box = h("dialog", { id: `${id}-dialog`, "aria-labelledby": `${id}-title` }, form);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    whileBusy(go, async () => {
      trouble.replaceChildren();
      const input = form.querySelector("[data-secret]");
      const secret = input?.value;
      // From here on the page holds it in this call alone.
      if (input) input.value = "";
      try {
        await onSubmit(secret);
        box.close();
      } catch (failure) {
        trouble.replaceChildren(failureNotice(failure));
        (input ?? go).focus();
      }
    });
  });
  box.addEventListener("close", () => {
    box.remove();
    (opener?.isConnected ? opener : document.getElementById(opener?.id)
      ?? document.querySelector("#keys h2"))?.focus();
  });
  document.body.append(box);
  box.showModal();
  (form.querySelector("[autofocus]") ?? form.querySelector("input, textarea, select"))?.focus();
}

function secretField(id, provider, label) {
  const attributes = { id: `${id}-secret`, autocomplete: "off", spellcheck: "false",
    autocapitalize: "none", required: true, "data-secret": true, autofocus: id === "replace" };
  const control = STRUCTURED.has(provider)
    ? h("textarea", { ...attributes, rows: 4, class: "concealed" })
    : h("input", { ...attributes, type: "password" });
  return field(label, control);
}

function fieldsOf(id, key) {
  const label = h("input", { id: `${id}-label`, type: "text", maxlength: 100,
    autocomplete: "off", value: key.label });
  const limit = h("input", { id: `${id}-limit`, type: "number", min: "0.01", step: "0.01",
    max: LIMIT_USD_MAX, inputmode: "decimal",
    value: key.monthlyLimitNanoUsd && Number(key.monthlyLimitNanoUsd) / NANO });
  const always = h("input", { type: "checkbox", id: `${id}-always`, checked: key.alwaysUse });
  return {
    label: field("Label", label, "For yourself, for example the team it belongs to."),
    limit: field("Monthly limit in US dollars", limit,
      "Of what the provider charges, by calendar month; empty for none."),
    always: checkbox(always, "This key alone may pay for what it matches: never fall back to credits"),
    values() {
      const model = document.getElementById(`${id}-model`).value;
      return {
        ...(label.value && { label: label.value }),
        ...(model && { defaultModel: model }),
        ...(limit.value && { monthlyLimitNanoUsd: String(Math.round(Number(limit.value) * NANO)) }),
        alwaysUse: always.checked,
      };
    },
  };
}

function modelField(id, provider, value) {
  const models = [...(provider.curatedModels ?? [])];
  if (value && !models.includes(value)) models.push(value);
  return field("Default model", select(`${id}-model`, [
    { value: "", label: `The provider's: ${provider.defaultModel || "none"}` },
    ...models.map((model) => ({ value: model, label: model })),
  ], value), "Serves requests that name no model.");
}

function select(id, options, value = "") {
  return h("select", { id }, options.map((option) =>
    h("option", { value: option.value, selected: option.value === value }, option.label)));
}

function checkbox(input, text) {
  return h("label", { class: "check", for: input.id }, input, h("span", {}, text));
}
