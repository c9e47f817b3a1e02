// SPDX-License-Identifier: Apache-2.0

/**
 * Values as people read them: amounts, times, enum values.
 *
 * @module words
 */

const NANO = 1_000_000_000n;
const NANO_DIGITS = 9;
const SHOWN_UNIT = NANO / 100n;

/** `1,234.50 credits`, cut for reading, never more than there is; `exactCredits` has every digit. */
export function credits(nano) {
  return `${rounded(nano)} ${Number(nano) === Number(NANO) ? "credit" : "credits"}`;
}

/** `1,234.500000001 credits`, to the last unit. */
export function exactCredits(nano) {
  const value = BigInt(nano ?? 0);
  const [sign, amount] = value < 0n ? ["−", -value] : ["", value];
  const part = String(amount % NANO).padStart(NANO_DIGITS, "0").replace(/0+$/, "");
  return `${sign}${(amount / NANO).toLocaleString("en")}${part && `.${part}`} credits`;
}

/** Tells whether `credits` leaves digits out. */
export function cutOff(nano) {
  return BigInt(nano ?? 0) % SHOWN_UNIT !== 0n;
}

/** `$0.000123`, rounded for reading. */
export function usd(nano) {
  const sign = Number(nano ?? 0) < 0 ? "−" : "";
  return `${sign}$${rounded(Math.abs(Number(nano ?? 0)), 2)}`;
}

function rounded(nano, digitsMin = 0) {
  const value = Number(nano ?? 0) / Number(NANO);
  const small = value !== 0 && Math.abs(value) < 1;
  return value.toLocaleString("en", small
    ? { maximumSignificantDigits: 3 }
    : { minimumFractionDigits: value % 1 ? 2 : digitsMin, maximumFractionDigits: 2,
      roundingMode: "trunc" });
}

/** `5 Nov, 14:20`, in the reader's own time. */
export function when(time) {
  return new Date(time).toLocaleString("en-GB", {
    day: "numeric", month: "short", hour: "2-digit", minute: "2-digit",
  });
}

/** `1 request`, `2 requests`. */
export function count(number, noun) {
  return `${Number(number).toLocaleString("en")} ${noun}${Number(number) === 1 ? "" : "s"}`;
}

/** The last part of a resource name. */
export function short(name) {
  return name.slice(name.lastIndexOf("/") + 1);
}

export const MODES = {
  BILLING_MODE_CREDITS: {
    label: "Credits",
    about: "Credits pay for everything. Your keys stay stored and are not used.",
  },
  BILLING_MODE_OWN_KEY_FIRST: {
    label: "Own key first",
    about: "Your keys pay where one can serve; credits step in where it cannot.",
  },
  BILLING_MODE_OWN_KEY_ONLY: {
    label: "Own key only",
    about: "Credits are paused: the balance stands still to the last unit, nothing expires.",
  },
};

export const HEALTH = {
  HEALTH_STATE_ACTIVE: { label: "Works", kind: "good" },
  HEALTH_STATE_SUSPECT: { label: "Not confirmed", kind: "warn" },
  HEALTH_STATE_REJECTED: { label: "Refused", kind: "bad" },
  HEALTH_STATE_NO_CREDIT: { label: "Out of money", kind: "bad" },
  HEALTH_STATE_COOLING: { label: "Cooling down", kind: "warn" },
};

export const TEST_RESULTS = {
  TEST_RESULT_VALID: { label: "It works", kind: "good" },
  TEST_RESULT_INVALID: { label: "The provider does not know it", kind: "bad" },
  TEST_RESULT_NO_CREDIT: { label: "Out of money at the provider", kind: "bad" },
  TEST_RESULT_RATE_LIMITED: { label: "Rate-limited at the moment", kind: "warn" },
  TEST_RESULT_FORBIDDEN: { label: "A permission is missing", kind: "bad" },
  TEST_RESULT_UNREACHABLE: { label: "The provider could not be asked", kind: "warn" },
};

const CONSENTS = {
  FALLBACK_CONSENT_NEVER: "never, whatever happens to the key",
  FALLBACK_CONSENT_RATE_LIMIT: "while the key is rate-limited",
  FALLBACK_CONSENT_KEY_FAILURE: "while the key is rate-limited, refused or out of money",
  FALLBACK_CONSENT_ANY: "whenever the key cannot serve",
};

/** When credits step in. */
export function consent(value) {
  return CONSENTS[value] ?? "as the plan says";
}

/** `rate limited` for OUTCOME_RATE_LIMITED. */
export function outcome(value) {
  return (value ?? "").replace("OUTCOME_", "").toLowerCase().replaceAll("_", " ");
}

export const OWN_KEY = "FUNDING_OWN_KEY";
export const VALID = "TEST_RESULT_VALID";
export const CLIENT_HELD = "RESIDENCE_CLIENT_HELD";
export const DISABLED = "KEY_STATE_DISABLED";
