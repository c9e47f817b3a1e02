// SPDX-License-Identifier: Apache-2.0

/**
 * What the page knows, and how it is read again.
 *
 * @module state
 */

import { call, list } from "./api.js";
import { held } from "./ownkey.js";
import { CLIENT_HELD } from "./words.js";

export const USAGE_DAYS = 30;
const DAY_MILLISECONDS = 24 * 3600 * 1000;

/** Everything that was read last. Only `load` changes it. */
export const state = {
  account: "", providers: [], models: [], plans: [],
  keys: [], heldHere: new Set(), settings: {}, payer: {}, balance: {}, usage: [], usageDays: [],
};

const READERS = {
  async catalogue() {
    [state.providers, state.models, { plans: state.plans = [] }] = await Promise.all([
      list("router/ListProviders", {}, "providers"),
      list("router/ListModels", {}, "models"),
      call("ledger/ListPlans", {}),
    ]);
  },
  async keys() {
    const [keys, { settings }] = await Promise.all([
      list("keyvault/ListKeys", { parent: state.account }, "keys"),
      call("keyvault/GetSettings", { name: `${state.account}/settings` }),
    ]);
    const here = await Promise.all(keys.map(async (key) =>
      key.residence === CLIENT_HELD && (await held(key.name)) !== undefined));
    state.keys = keys;
    state.settings = settings;
    state.heldHere = new Set(keys.filter((_, place) => here[place]).map((key) => key.name));
  },
  async money() {
    const [{ account }, { balance }] = await Promise.all([
      call("ledger/GetAccount", { name: state.account }),
      call("ledger/GetBalance", { account: state.account }),
    ]);
    state.payer = account;
    state.balance = balance;
  },
  async usage() {
    const today = Date.now();
    const day = (back) => new Date(today - back * DAY_MILLISECONDS).toISOString().slice(0, 10);
    state.usageDays = Array.from({ length: USAGE_DAYS }, (_, i) => day(USAGE_DAYS - 1 - i));
    state.usage = await list("ledger/GetUsage",
      { account: state.account, startDay: state.usageDays[0], endDay: day(-1) }, "rows");
  },
};

const listeners = [];

/** Has something drawn whenever anything was read. */
export function onChange(listener) {
  listeners.push(listener);
}

/**
 * Reads parts of the state again, then has the page drawn.
 *
 * @param {...("catalogue"|"keys"|"money"|"usage")} parts
 */
export async function load(...parts) {
  await Promise.all(parts.map((part) => READERS[part]()));
  listeners.forEach((listener) => listener());
}

/** A provider of the catalogue, or what can be said of one that is not in it. */
export function providerOf(id) {
  return state.providers.find((provider) => provider.providerId === id)
    ?? { providerId: id, displayName: id, curatedModels: [] };
}

/** The account's plan. */
export function plan() {
  return state.plans.find((one) => one.name === state.payer.plan) ?? {};
}
