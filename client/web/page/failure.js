// SPDX-License-Identifier: Apache-2.0

/**
 * Failures as people read them: a sentence, what to do next, what was tried.
 *
 * @module failure
 */

import { Failure } from "./api.js";
import { h, sayUntilRead } from "./dom.js";
import { outcome } from "./words.js";

/** A failure's notice. */
export function failureNotice(failure) {
  const known = failure instanceof Failure || failure.name === "OwnkeyError";
  if (!known) console.error(failure);
  const message = known ? failure.message : "Something in this page went wrong. Reload it.";
  const fields = (failure.fields ?? []).filter((one) => !message.includes(one.description));
  return h("div", { class: "notice bad", role: "alert" },
    h("p", {}, sentence(message)),
    fields.length > 0 && h("ul", {}, fields.map((one) => h("li", {}, sentence(one.description)))),
    failure.nextStep && h("p", { class: "next" }, failure.nextStep),
    (failure.attempts ?? []).length > 0 && h("p", { class: "hint" }, "Tried: ",
      failure.attempts.map((one) => `${one.provider} (${outcome(one.outcome)})`).join(", then ")),
    failure.reason && h("p", { class: "reason" }, failure.reason));
}

/** Does something and says where it failed; tells whether it went well. */
export async function attempt(action) {
  try {
    await action();
    return true;
  } catch (failure) {
    sayUntilRead(failureNotice(failure));
    return false;
  }
}

/** Text of a service as a whole sentence. */
export function sentence(text) {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(whole) ? whole : `${whole}.`;
}
