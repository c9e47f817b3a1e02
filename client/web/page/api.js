// SPDX-License-Identifier: Apache-2.0

/**
 * Calls through the page's own server, in the JSON of the protos.
 *
 * @module api
 */

const ATTEMPTS_MAX = 4;
const WAIT_SECONDS_MAX = 5;
const PAGES_MAX = 10;

/** What to do next by reason, in this page's own terms; the service's sentence stands before it. */
const NEXT_STEPS = {
  ACCOUNT_NOT_FOUND: "Whoever runs Ownkey makes it: ownkey accounts create.",
  ACCESS_DENIED: "Ask whoever runs Ownkey to let the identity web do this.",
  CREDITS_NOT_POSSIBLE: "Choose another model, or let an own key pay.",
  ETAG_MISMATCH: "It was changed elsewhere meanwhile: reload the page and try again.",
  FALLBACK_NOT_ALLOWED: "Test the key, or choose Credits for this request.",
  INSUFFICIENT_CREDITS: "Buy credits, or let an own key pay.",
  KEY_ALREADY_EXISTS: "Replace the key that is there instead.",
  KEY_DISABLED: "Enable the key first.",
  KEY_FORBIDDEN: "Give the key that permission at the provider, then try again.",
  KEY_INVALID: "Copy the key anew from the provider's page; look for a missing beginning or end.",
  KEY_LIMIT_REACHED: "Delete a key that is no longer needed.",
  KEY_NO_CREDIT: "Add money at the provider, then test the key.",
  MODE_NOT_ALLOWED: "Choose another way to pay, or change the plan.",
  NO_CANDIDATE: "Choose another model.",
  NO_USABLE_OWN_KEY: "Add a key that serves this model, test the one you have, or choose Credits.",
  PROVIDER_UNREACHABLE: "Try again in a moment, or store it untested.",
  RATE_LIMITED: "Wait a moment, or choose Credits for this request.",
  SOURCE_NOT_ALLOWED: "Change who pays, or choose Automatic.",
};

/** A failed call: the reason for programs, sentences for people. */
export class Failure extends Error {
  /** @param {object} document What the server told. */
  constructor(document) {
    super(document.message || "The call failed and nothing says why.");
    this.name = "Failure";
    this.reason = document.reason ?? "";
    this.fields = document.fields ?? [];
    this.attempts = document.attempts ?? [];
    this.retryAfterSeconds = document.retryAfterSeconds ?? null;
    this.code = document.code ?? "";
    if (document.code && !this.reason) {
      this.message = document.code === "UNAVAILABLE"
        ? `Nobody answers for the ${document.service}.` : `The ${document.service} did not answer.`;
    }
  }

  /** What to do, where this page knows more than the sentence tells. */
  get nextStep() {
    if (this.code && !this.reason) return "Make sure that it runs, then try again.";
    return NEXT_STEPS[this.reason] ?? "";
  }
}

/**
 * Makes a call with one answer. Where the service says that waiting helps, the same message is
 * sent again a few times: its request id is the first one's, so nothing happens twice.
 *
 * @param {string} rpc `ledger/GetBalance`.
 * @param {object} message
 */
export async function call(rpc, message) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await (await post(`/api/${rpc}`, message)).json();
    } catch (failure) {
      const seconds = failure.retryAfterSeconds;
      const waits = failure.code === "UNAVAILABLE" && seconds !== null
        && seconds <= WAIT_SECONDS_MAX && attempt < ATTEMPTS_MAX;
      if (!waits) throw failure;
      await new Promise((resolve) => { setTimeout(resolve, seconds * 1000); });
    }
  }
}

/** Reads a list to its end. */
export async function list(rpc, message, items) {
  const found = [];
  let pageToken = "";
  for (let page = 0; page < PAGES_MAX; page += 1) {
    const answer = await call(rpc, { ...message, pageSize: 1000, pageToken });
    found.push(...(answer[items] ?? []));
    pageToken = answer.nextPageToken ?? "";
    if (!pageToken) break;
  }
  return found;
}

/**
 * Makes a call whose answers come one by one.
 *
 * @param {string} rpc
 * @param {object} message
 * @param {AbortSignal} signal Ends it.
 */
export async function* stream(rpc, message, signal) {
  const response = await post(`/api/${rpc}`, message, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Failure({ message: "The answer broke off. Try again." });
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const answer = JSON.parse(line);
      if (answer.end) return;
      if (answer.failure) throw new Failure(answer.failure);
      yield answer;
    }
  }
}

/** Shows the link's token, once; the browser gets its session's cookie. */
export async function enter(token) {
  await post("/session", { token });
}

/** What the page acts for. */
export async function session() {
  return (await post("/api/session", {})).json();
}

/** A new request's id. */
export function newId() {
  return crypto.randomUUID();
}

async function post(path, message, signal) {
  let response;
  try {
    response = await fetch(path, {
      method: "POST", body: JSON.stringify(message), signal,
      headers: { "Content-Type": "application/json" },
    });
  } catch (fault) {
    if (fault.name === "AbortError") throw fault;
    throw new Failure({
      reason: "PAGE_AWAY",
      message: "The page's own server does not answer. Start it again, then reload this page.",
    });
  }
  if (!response.ok) throw new Failure(await response.json().catch(() => ({})));
  return response;
}
