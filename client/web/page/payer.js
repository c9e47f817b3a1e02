// SPDX-License-Identifier: Apache-2.0

/**
 * Who pays: the billing mode, the pause with its receipt and its proof, the balance.
 *
 * @module payer
 */

import { call, newId } from "./api.js";
import { button, chosen, h, radios, say, show } from "./dom.js";
import { attempt } from "./failure.js";
import { load, plan, state } from "./state.js";
import { MODES, consent, count, credits, cutOff, exactCredits, when } from "./words.js";

const DIGEST_SHOWN = 16; // base64 letters: enough to tell two receipts apart
const GRANTS_SHOWN = 6;
let paper = null; // the receipt or proof of the last switch

/** Draws who pays. */
export function drawPayer() {
  const { balance } = state;
  show(document.getElementById("payer"),
    h("div", { class: "card-head" }, h("h2", { id: "payer-title", tabindex: "-1" }, "Who pays")),
    h("form", { id: "mode-form", onsubmit: (event) => event.preventDefault() },
      radios({ name: "mode", legend: "For each request", kind: "choices",
        value: state.payer.billingMode, options: options(), onChange: () => refreshButton() }),
      h("div", { class: "actions" }, button("Apply", apply, { id: "apply-mode", disabled: true }))),
    state.payer.billingMode === "BILLING_MODE_OWN_KEY_FIRST"
      && h("p", { class: "hint" }, `Credits step in ${consent(state.payer.fallbackConsent)}.`),
    paper && h("div", { class: "paper" }, paper),
    h("h3", {}, "Balance"),
    h("p", { class: "balance" },
      h("span", {}, credits(balance.availableNanoCredits)), " available",
      balance.paused && h("span", { class: "badge own" }, "Paused")),
    cutOff(balance.availableNanoCredits)
      && h("p", { class: "hint" }, `${exactCredits(balance.availableNanoCredits)}, to the last unit`),
    Number(balance.reservedNanoCredits ?? 0) > 0
      && h("p", { class: "hint" }, `${credits(balance.reservedNanoCredits)} more are held by running `
        + "requests."),
    drawGrants(balance));
}

function options() {
  const allowed = plan().allowedModes ?? [];
  return Object.entries(MODES).map(([value, { label, about }]) => {
    const possible = allowed.includes(value);
    return { value, label, disabled: !possible,
      about: possible ? about : `${about} Not on the plan ${plan().title ?? "of this account"}.` };
  });
}

function refreshButton() {
  document.getElementById("apply-mode").disabled = chosen("mode") === state.payer.billingMode;
}

async function apply() {
  const billingMode = chosen("mode");
  const done = await attempt(async () => {
    const answer = await call("ledger/SetBillingMode",
      { account: state.account, billingMode, requestId: newId() });
    paper = (answer.proof && drawProof(answer.proof)) ?? (answer.receipt && drawReceipt(answer.receipt));
    await load("money");
  });
  if (!done) return;
  say(`${MODES[billingMode].label}: ${MODES[billingMode].about}`);
  document.getElementById("payer-title").focus();
}

function drawReceipt(receipt) {
  return [
    h("h3", {}, "Receipt of the pause"),
    rows([
      ["Paused", when(receipt.pauseTime)],
      ["Kept", exactCredits(receipt.postedNanoCredits)],
      ["Open holds", `${receipt.openHoldCount ?? 0}, ${exactCredits(receipt.reservedNanoCredits)}`],
      ["Receipt", h("code", {}, `${receipt.digest.slice(0, DIGEST_SHOWN)}…`)],
    ]),
    h("p", { class: "hint" }, "Until you resume, only what you explicitly ask credits for is charged."),
  ];
}

function drawProof(proof) {
  return [
    h("h3", {}, proof.proven ? "Resumed, and proven" : "Resumed, but not proven"),
    rows([
      ["Kept at the pause", exactCredits(proof.receipt.postedNanoCredits)],
      ["Asked for meanwhile", `− ${exactCredits(proof.explicitChargedNanoCredits)}`],
      ["Earlier holds", `− ${exactCredits(proof.earlierHoldsChargedNanoCredits)}`],
      ["Came in", `+ ${exactCredits(proof.grantedNanoCredits)}`],
      ["Expired", exactCredits(proof.expiredNanoCredits)],
      ["Now", exactCredits(proof.postedNanoCredits)],
    ]),
    h("p", { class: `hint ${proof.proven ? "good" : "bad"}` }, proof.proven
      ? "The sums give the amount on record to the last unit."
      : "The sums do not give the amount on record. Tell whoever runs Ownkey."),
  ];
}

function rows(pairs) {
  return h("dl", { class: "pairs" }, pairs.map(([name, value]) =>
    h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function drawGrants({ grants = [], paused }) {
  if (grants.length === 0) return h("p", { class: "empty" }, "No credits are left.");
  const kind = (grant) => grant.kind.replace("GRANT_KIND_", "").toLowerCase();
  return [
    h("ul", { class: "grants", "aria-label": "Credits, in the order they are spent" },
      grants.slice(0, GRANTS_SHOWN).map((grant) => h("li", {},
        h("span", {}, grant.note || kind(grant)),
        h("span", { class: "number" }, credits(grant.remainingNanoCredits)),
        h("span", { class: "hint" }, grant.expireTime
          ? `${paused ? "would expire" : "expires"} ${when(grant.expireTime)}` : "never expires")))),
    grants.length > GRANTS_SHOWN
      && h("p", { class: "hint" }, `and ${count(grants.length - GRANTS_SHOWN, "grant")} more`),
  ];
}
