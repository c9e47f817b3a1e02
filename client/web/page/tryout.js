// SPDX-License-Identifier: Apache-2.0

/**
 * A generation to try: who would pay is told before, who paid after.
 *
 * @module tryout
 */

import { call, newId, stream } from "./api.js";
import { broughtKeys, namedKeys } from "./deeds.js";
import { button, chosen, field, h, radios } from "./dom.js";
import { failureNotice, sentence } from "./failure.js";
import { keep } from "./ownkey.js";
import { load, providerOf, state } from "./state.js";
import { OWN_KEY, credits, outcome, usd } from "./words.js";

const PROMPT = "In one sentence: what is a data key?";
const PROMPT_LENGTH_MAX = 16_000;
const OUTPUT_TOKENS_MAX = 512;
const SETTLE_MILLISECONDS = 300;
const KEYS_LATE_MILLISECONDS = 1_200; // the router may know the keys of a second ago
const TEXT = "CAPABILITY_TEXT";

let running = null; // ends the generation under way
let settling = 0;
let late = 0;
let asked = 0;

/** Builds the form, once; what it says follows the state. */
export function buildTryout() {
  const prompt = h("textarea", { id: "prompt", rows: 3, maxlength: PROMPT_LENGTH_MAX, required: true,
    oninput: settle }, PROMPT);
  const model = h("select", { id: "model", onchange: foresee });
  const form = h("form", { id: "try-form" },
    field("Prompt", prompt),
    h("div", { class: "pair" },
      radios({ name: "source", legend: "Paid by", kind: "segments", value: "SOURCE_AUTO",
        onChange: foresee, options: [
          { value: "SOURCE_AUTO", label: "Automatic" },
          { value: "SOURCE_OWN_KEY", label: "Own key" },
          { value: "SOURCE_CREDITS", label: "Credits" },
        ] }),
      radios({ name: "tier", legend: "Prefer", kind: "segments", value: "TIER_QUALITY",
        onChange: foresee, options: [
          { value: "TIER_QUALITY", label: "Quality" },
          { value: "TIER_SPEED", label: "Speed" },
        ] })),
    h("p", { class: "hint", id: "tier-why", "aria-live": "polite" }),
    field("Model", model),
    h("div", { id: "foreseen", class: "foreseen", "aria-live": "polite" }),
    h("div", { class: "actions" },
      h("button", { type: "submit", class: "primary", id: "generate" }, "Generate"),
      button("Stop", () => running?.abort(), { id: "stop", hidden: true })));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!running) generate();
  });
  document.getElementById("try").replaceChildren(
    h("div", { class: "card-head" }, h("h2", { id: "try-title", tabindex: "-1" }, "Try it")), form,
    h("div", { id: "answer", class: "answer", role: "region", "aria-label": "Answer", hidden: true }));
}

/** Draws what follows the state: the models, and who would pay. */
export function drawTryout() {
  const model = document.getElementById("model");
  const { value } = model;
  const vendors = new Map();
  for (const one of state.models.filter((item) => item.capabilities?.includes(TEXT))) {
    const vendor = one.modelId.split("/")[0];
    vendors.set(vendor, [...(vendors.get(vendor) ?? []), one]);
  }
  model.replaceChildren(h("option", { value: "" }, "None named: the active key's, or by preference"),
    ...[...vendors].map(([vendor, models]) => h("optgroup", { label: vendor },
      models.map((one) => h("option", { value: one.modelId }, one.displayName || one.modelId)))));
  model.value = value;
  foresee();
  clearTimeout(late);
  late = setTimeout(foresee, KEYS_LATE_MILLISECONDS);
}

function settle() {
  clearTimeout(settling);
  settling = setTimeout(foresee, SETTLE_MILLISECONDS);
}

function request() {
  const model = document.getElementById("model").value;
  const text = document.getElementById("prompt").value.trim() || PROMPT;
  return {
    account: state.account, model, source: chosen("source"), tier: chosen("tier"),
    input: { messages: [{ role: "ROLE_USER", parts: [{ text }] }],
      maxOutputTokens: OUTPUT_TOKENS_MAX },
  };
}

/** Asks who would pay, and says so; what was asked before and comes late is dropped. */
async function foresee() {
  asked += 1;
  const number = asked;
  const wanted = request();
  let told;
  try {
    const answer = await call("router/Explain",
      { text: { ...wanted, clientHeldKeys: namedKeys() } });
    if (number !== asked) return;
    drawInert(wanted, answer);
    told = foreseen(answer);
  } catch (failure) {
    if (number !== asked) return;
    drawInert(wanted, {});
    told = failureNotice(failure);
  }
  document.getElementById("foreseen").replaceChildren(told);
}

function drawInert(wanted, { payer, candidates = [] }) {
  let why = "";
  if (wanted.model) {
    why = "You named a model, and a named model wins over the preference.";
  } else if (payer === OWN_KEY) {
    why = `Without effect on your own key: it serves ${candidates[0]?.model ?? "its own model"}. `
      + "Quality and speed choose a model only where credits pay.";
  }
  document.getElementById("tier").disabled = why !== "";
  const place = document.getElementById("tier-why");
  if (place.textContent !== why) place.textContent = why;
}

function foreseen(answer) {
  const first = (answer.candidates ?? []).find((one) => one.funding === answer.payer);
  if (answer.refusal || !first) {
    const text = answer.refusal?.message ?? (answer.exclusions ?? [])
      .map((one) => sentence(`${providerOf(one.provider).displayName}: ${one.detail}`)).join(" ");
    return h("p", { class: "bad" }, sentence(text || "Nothing can serve this."));
  }
  const own = first.funding === OWN_KEY;
  return h("p", {},
    h("span", { class: `badge ${own ? "own" : "credits"}` }, own ? "Your key would pay" : "Credits would pay"),
    ` ${first.model} at ${providerOf(first.provider).displayName}`,
    own && first.keyHint && [", ", h("code", {}, first.keyHint)],
    own ? first.worstCaseNanoUsd && `, at most ${usd(first.worstCaseNanoUsd)}`
      : `, at most ${credits(answer.heldNanoCredits)}`,
    first.wait && `, after waiting ${Math.ceil(parseFloat(first.wait))} s for it to cool down`,
    answer.fallback && " – in place of a key that cannot serve", ".");
}

async function generate() {
  const place = document.getElementById("answer");
  const text = h("p", { class: "text", "aria-busy": "true" });
  const head = h("p", { class: "served" }, "Asking…");
  const end = h("div", { "aria-live": "polite" });
  place.hidden = false;
  place.replaceChildren(head, text, end);
  running = new AbortController();
  showRunning(true);
  try {
    const requestId = newId();
    const message = { ...request(), requestId, clientHeldKeys: await broughtKeys(requestId) };
    // Without effect, it is not asked for.
    if (document.getElementById("tier").disabled) delete message.tier;
    for await (const answer of stream("router/StreamText", message, running.signal)) {
      if (answer.start) head.replaceChildren(served(answer.start));
      else if (answer.textDelta) text.append(answer.textDelta);
      else if (answer.finish) {
        await keepResealed(answer.finish.resealedKeys);
        end.replaceChildren(...drawReceipt(answer.finish.receipt));
      }
    }
  } catch (failure) {
    if (failure.name === "AbortError") {
      end.replaceChildren(h("p", { class: "hint" }, "Stopped. What was delivered is still settled."));
    } else {
      if (!text.textContent) head.replaceChildren();
      end.replaceChildren(failureNotice(failure));
    }
  } finally {
    running = null;
    text.removeAttribute("aria-busy");
    showRunning(false);
  }
  await load("keys", "money", "usage");
}

function showRunning(runs) {
  const stop = document.getElementById("stop");
  const start = document.getElementById("generate");
  stop.hidden = !runs;
  start.disabled = runs;
  (runs ? stop : start).focus();
}

async function keepResealed(resealed = []) {
  for (const { key, sealedKey } of resealed) await keep(key, sealedKey);
}

function served({ payer, provider, model, keyHint, fallback }) {
  const own = payer === OWN_KEY;
  return h("span", {},
    h("span", { class: `badge ${own ? "own" : "credits"}` }, own ? "Your key pays" : "Credits pay"),
    ` ${model} at ${providerOf(provider).displayName}`,
    own && keyHint && [", ", h("code", {}, keyHint)], fallback && ", a fallback");
}

function drawReceipt(receipt) {
  const tried = receipt.attempts ?? [];
  const charged = Number(receipt.chargedNanoCredits ?? 0);
  return [
    h("p", { class: "cost" }, charged ? `Charged ${credits(charged)}. ` : "No credits were charged. ",
      receipt.costNanoUsd !== undefined && `The provider charges ${usd(receipt.costNanoUsd)}. `,
      receipt.usage && `${receipt.usage.inputTokenCount ?? 0} tokens in, `
        + `${receipt.usage.outputTokenCount ?? 0} out.`,
      receipt.settlementState === "SETTLEMENT_STATE_PENDING" && " It is being settled."),
    ...(tried.length > 1 ? [h("ol", { class: "tried" }, tried.map((one) => h("li", {},
      `${providerOf(one.provider).displayName}, ${one.funding === OWN_KEY ? "own key" : "credits"}: `
        + outcome(one.outcome))))] : []),
    ...(receipt.notes ?? []).map((note) => h("p", { class: "hint" }, sentence(note))),
  ];
}
