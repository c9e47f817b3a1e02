// SPDX-License-Identifier: Apache-2.0

/**
 * The page's beginning: shows the link's token, reads everything, has it drawn.
 *
 * @module main
 */

import { enter, session } from "./api.js";
import { h, say } from "./dom.js";
import { failureNotice } from "./failure.js";
import { drawKeys } from "./keys.js";
import { drawPayer } from "./payer.js";
import { load, onChange, plan, state } from "./state.js";
import { buildTryout, drawTryout } from "./tryout.js";
import { drawUsage } from "./usage.js";
import { DISABLED, MODES, count, credits, short } from "./words.js";

const TOKEN = "#token=";

try {
  await letIn();
  state.account = (await session()).account;
  document.getElementById("account").textContent = short(state.account);
  buildTryout();
  for (const draw of [drawSummary, drawKeys, drawPayer, drawTryout, drawUsage]) onChange(draw);
  await load("catalogue", "keys", "money", "usage");
  document.getElementById("open").hidden = false;
  document.querySelector("nav").hidden = false;
} catch (failure) {
  drawClosed(failure);
}

/** The token leaves the address at once: it is worth nothing any more, and nobody wonders. */
async function letIn() {
  if (!location.hash.startsWith(TOKEN)) return;
  const token = location.hash.slice(TOKEN.length);
  history.replaceState(null, "", location.pathname);
  try {
    await enter(token);
  } catch (failure) {
    // A link opened twice in the browser that it let in is no reason to lock anybody out.
    if (failure.reason !== "LINK_USED" || !(await session().then(() => true, () => false))) {
      throw failure;
    }
    say("That link was used before; this browser is in already.");
  }
}

function drawClosed(failure) {
  const outside = ["NO_SESSION", "LINK_USED"].includes(failure.reason);
  const place = document.getElementById("closed");
  place.replaceChildren(...(outside
    ? [
      h("h2", {}, "This page opens by its link"),
      h("p", {}, failure.message),
      h("p", {}, "It was printed where the page was started. Each link opens one browser, once; "
        + "the newest stands in the file that was named there, or at the end of the page's log."),
    ]
    : [h("h2", {}, "The settings cannot be shown"), failureNotice(failure),
      h("p", {}, h("a", { href: "/" }, "Try again"))]));
  place.hidden = false;
}

function drawSummary() {
  const { balance, keys } = state;
  const on = keys.filter((key) => key.state !== DISABLED);
  const well = on.filter((key) => key.health?.[0]?.state === "HEALTH_STATE_ACTIVE");
  const ill = on.length - well.length;
  const mode = MODES[state.payer.billingMode];
  document.getElementById("summary").replaceChildren(
    tile("Who pays", mode?.label ?? "–", plan().title && `Plan ${plan().title}`),
    tile("Credits", credits(balance.availableNanoCredits), balance.paused
      ? "Paused, to the last unit" : "Available now"),
    tile("Keys", keys.length === 0 ? "None yet" : `${well.length} of ${keys.length} ready`,
      ill ? `${count(ill, "key")} to look at` : keys.length > 0 && "All that are on work", ill > 0));
}

function tile(name, value, about, warns = false) {
  return h("div", { class: "tile" }, h("p", { class: "tile-name" }, name),
    h("p", { class: "tile-value" }, value),
    about && h("p", { class: `hint ${warns ? "warn" : ""}` }, about));
}
