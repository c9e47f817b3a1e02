// SPDX-License-Identifier: Apache-2.0

/**
 * What can be done to keys, wherever they live. A key in the browser goes through the module of
 * `client/browser`: sealed once, and brought with a fresh proof whenever it is needed.
 *
 * @module deeds
 */

import { call, newId } from "./api.js";
import { bring, forget, keep, prove, seal, signingKey } from "./ownkey.js";
import { state } from "./state.js";
import { CLIENT_HELD, DISABLED } from "./words.js";

const SUITE = "SEALING_SUITE_X25519";

/** Tells whether this browser can hold keys. */
export async function canHoldKeys() {
  try {
    await crypto.subtle.generateKey({ name: "X25519" }, false, ["deriveBits"]);
    return true;
  } catch {
    return false;
  }
}

/** Stores a key; `key.residence` says where. */
export async function addKey({ key, secret, storeUnverified }) {
  const requestId = newId();
  const sent = await secretParts({ provider: key.provider, secret, requestId, residence: key.residence });
  const answer = await call("keyvault/CreateKey",
    { parent: state.account, requestId, key, storeUnverified, ...sent });
  if (sent.sealedKey) await keep(answer.key.name, sent.sealedKey);
  return answer;
}

/** Gives a key a new secret, which lives where the old one did. */
export async function replaceKey({ key, secret, overlapSeconds }) {
  const requestId = newId();
  const sent = await secretParts({ provider: key.provider, secret, requestId, residence: key.residence });
  const answer = await call("keyvault/ReplaceKey", {
    name: key.name, requestId, ...(overlapSeconds && { overlapSeconds }), ...sent,
  });
  if (sent.sealedKey) await keep(key.name, sent.sealedKey);
  return answer;
}

/** Tests a key; gives what was found. */
export async function testKey(key) {
  const requestId = newId();
  const { test } = await call("keyvault/TestKey",
    { name: key.name, ...(await brought(key, requestId)) });
  return test;
}

/** Deletes a key, and what this browser holds of it. */
export async function deleteKey(key) {
  await call("keyvault/DeleteKey", { name: key.name, etag: key.etag, requestId: newId() });
  if (state.heldHere.has(key.name)) await forget(key.name);
}

/** Moves a key's secret into this browser, without it being seen. */
export async function moveToBrowser(key) {
  const requestId = newId();
  const { account } = state;
  const { sealedKey } = await call("keyvault/MoveKey", {
    name: key.name, residence: CLIENT_HELD, requestId, suite: SUITE,
    signingKey: await signingKey(account),
    proof: await prove({ account, provider: key.provider, requestId }),
  });
  await keep(key.name, sealedKey);
}

/** Moves a key's secret from this browser to the server. */
export async function moveToServer(key) {
  const requestId = newId();
  const { sealedKey, proof } = await bring(key.name, { provider: key.provider, requestId });
  await call("keyvault/MoveKey",
    { name: key.name, residence: "RESIDENCE_SERVER", requestId, sealedKey, proof });
  await forget(key.name);
}

/** Changes fields of a key; one that is null is emptied. */
export async function updateKey(key, fields) {
  const names = Object.keys(fields);
  const values = Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== null));
  await call("keyvault/UpdateKey", {
    key: { name: key.name, etag: key.etag, ...values }, updateMask: names.join(","),
    requestId: newId(),
  });
}

/** Puts keys into this order; only those whose place changes are changed. */
export async function orderKeys(keys) {
  for (const [place, key] of keys.entries()) {
    if ((key.order ?? 0) !== place) await updateKey(key, { order: place });
  }
}

/** ActivateKey, EnableKey or DisableKey. */
export async function switchKey(key, method) {
  await call(`keyvault/${method}`, { name: key.name, requestId: newId() });
}

/** The keys of this browser that may serve, each with a proof for the request. */
export async function broughtKeys(requestId) {
  return Promise.all(servingHere().map((key) =>
    bring(key.name, { provider: key.provider, requestId })));
}

/** The keys of this browser that may serve, by name alone: explaining needs no proof. */
export function namedKeys() {
  return servingHere().map((key) => ({ key: key.name }));
}

const BROUGHT_MAX = 8; // as many as a request takes

function servingHere() {
  return state.keys.filter((key) => state.heldHere.has(key.name) && key.state !== DISABLED)
    .slice(0, BROUGHT_MAX);
}

async function brought(key, requestId) {
  if (key.residence !== CLIENT_HELD) return {};
  const { sealedKey, proof } = await bring(key.name, { provider: key.provider, requestId });
  return { sealedKey, proof, requestId };
}

async function secretParts({ provider, secret, requestId, residence }) {
  if (residence !== CLIENT_HELD) return { secret };
  const { account } = state;
  const { sealingKey } = await call("keyvault/GetSealingKey", { suite: SUITE });
  const sealedKey = await seal({ account, provider, secret, sealingKey });
  return { sealedKey, proof: await prove({ account, provider, requestId }) };
}
