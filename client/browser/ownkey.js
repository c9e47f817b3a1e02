// SPDX-License-Identifier: Apache-2.0

/**
 * Client-held keys: a customer's provider key is sealed once, at submission, and kept sealed here.
 *
 * 1. What is sealed opens in the keyvault alone; nothing here can read it again.
 * 2. Each request is proven by a signing key that the browser does not let out, so a sealed key
 *    that was carried away is worth nothing elsewhere.
 * 3. Nothing is sent from here: what the functions return is the JSON of Ownkey's protos, for the
 *    product's page to hand to the product's backend.
 *
 * WebCrypto and IndexedDB only; needs a secure context and X25519 (Chrome 133, Firefox 130, Safari
 * 17, or newer).
 *
 * @module ownkey
 */

/**
 * A sealing key, as keyvault's GetSealingKey gives it in JSON.
 * @typedef {{name: string, suite: string, publicKey: string, expireTime: string}} SealingKey
 */

/**
 * `ownkey.keyvault.v1.SealedKey` in JSON; `blob` is base64.
 * @typedef {{sealingKey: string, blob: string}} SealedKey
 */

/**
 * `ownkey.keyvault.v1.SealedKeyProof` in JSON; `signature` is base64.
 * @typedef {{expireTime: string, job: string, signature: string}} SealedKeyProof
 */

/** How long a proof holds: less than the 120 s that are allowed, for clocks that are apart. */
export const PROOF_MILLISECONDS = 100_000;

const FORMAT_VERSION = "1";
const LABEL = "ownkey/sealed-key";
const PROOF_LABEL = "ownkey/sealed-key-proof";
const SUITE = "SEALING_SUITE_X25519";
const SECRET_BYTES_MAX = 16 * 1024;

const SIGNING = { name: "ECDSA", namedCurve: "P-256" };
const AES_256_GCM = { id: 2, keyBytes: 32 };
const KEM_ID = 0x0020; // DHKEM(X25519, HKDF-SHA256)
const KDF_ID = 0x0001; // HKDF-SHA256
const HASH_BYTES = 32;
const NONCE_BYTES = 12;

const DATABASE = "ownkey";
const SIGNING_KEYS = "signingKeys"; // by account
const SEALED_KEYS = "sealedKeys"; // by key

/** Something that a page can tell its visitor; `code` is for programs. */
export class OwnkeyError extends Error {
  /**
   * @param {string} code UNSUPPORTED, EXPIRED, TOO_LARGE or NOT_HELD.
   * @param {string} message What is wrong and what to do.
   */
  constructor(code, message) {
    super(message);
    this.name = "OwnkeyError";
    this.code = code;
  }
}

/**
 * Seals a secret, so that only the keyvault can open it and only this browser can use it.
 *
 * Keep what it returns by `keep` once the backend has created the key from it; forget the secret
 * itself: clear the input that it came from.
 *
 * @param {object} what
 * @param {string} what.account `accounts/{account}`.
 * @param {string} what.provider Provider id.
 * @param {string} what.secret The secret as pasted.
 * @param {SealingKey} what.sealingKey Of suite X25519.
 * @param {Date} [what.now] The server's time, where this machine's clock cannot be trusted.
 * @returns {Promise<SealedKey>}
 * @throws {OwnkeyError} UNSUPPORTED, EXPIRED or TOO_LARGE.
 */
export async function seal({ account, provider, secret, sealingKey, now = new Date() }) {
  if (sealingKey.suite !== SUITE) {
    throw new OwnkeyError("UNSUPPORTED", `this module seals with ${SUITE}; ask for that suite`);
  }
  if (new Date(sealingKey.expireTime) <= now) {
    throw new OwnkeyError("EXPIRED", "the sealing key is past its time; get the current one");
  }
  const bytes = utf8(secret);
  if (bytes.length > SECRET_BYTES_MAX) {
    throw new OwnkeyError("TOO_LARGE", `a key has at most ${SECRET_BYTES_MAX} bytes`);
  }
  const plaintext = canonical([
    utf8(LABEL), utf8(FORMAT_VERSION), utf8(account), utf8(provider),
    fromBase64(await signingKey(account)), bytes,
  ]);
  const blob = await hpkeSeal({
    recipient: fromBase64(sealingKey.publicKey),
    info: utf8(`${LABEL}/${FORMAT_VERSION}`),
    plaintext,
  });
  return { sealingKey: sealingKey.name, blob: toBase64(blob) };
}

/**
 * Proves that a request comes from this browser. A proof serves one run; make a fresh one for each
 * request, right before it is sent.
 *
 * @param {object} what
 * @param {string} what.account `accounts/{account}`.
 * @param {string} what.provider Provider id of the key.
 * @param {string} what.requestId UUID of the request.
 * @param {string} [what.job] `accounts/{account}/jobs/job-{requestId}` to start a job.
 * @param {Date} [what.now] The server's time, where this machine's clock cannot be trusted.
 * @returns {Promise<SealedKeyProof>}
 */
export async function prove({ account, provider, requestId, job = "", now = new Date() }) {
  const expiry = now.getTime() + PROOF_MILLISECONDS;
  const signed = canonical(
    [PROOF_LABEL, FORMAT_VERSION, account, provider, requestId.toLowerCase(), job, String(expiry)]
      .map(utf8),
  );
  const { privateKey } = await signingPair(account);
  // WebCrypto's ECDSA signature is r and s, 32 bytes each.
  const algorithm = { name: "ECDSA", hash: "SHA-256" };
  const signature = await crypto.subtle.sign(algorithm, privateKey, signed);
  return {
    expireTime: new Date(expiry).toISOString(), job, signature: toBase64(new Uint8Array(signature)),
  };
}

/**
 * Returns a kept key with a fresh proof: `ownkey.router.v1.ClientHeldKey` in JSON.
 *
 * @param {string} key `accounts/{account}/keys/{key}`.
 * @param {object} request As `prove`, without the account.
 * @returns {Promise<{key: string, sealedKey: SealedKey, proof: SealedKeyProof}>}
 * @throws {OwnkeyError} NOT_HELD.
 */
export async function bring(key, request) {
  const sealedKey = await held(key);
  if (sealedKey === undefined) {
    throw new OwnkeyError("NOT_HELD", `this browser does not hold ${key}; enter the key again`);
  }
  return { key, sealedKey, proof: await prove({ ...request, account: accountOf(key) }) };
}

/**
 * Returns this browser's public signing key for an account, base64: whom MoveKey is to seal for.
 *
 * @param {string} account `accounts/{account}`.
 * @returns {Promise<string>} A point of P-256, uncompressed.
 */
export async function signingKey(account) {
  const { publicKey } = await signingPair(account);
  return toBase64(new Uint8Array(await crypto.subtle.exportKey("raw", publicKey)));
}

/**
 * Keeps a sealed key: a new one, or the one that came back sealed anew.
 *
 * @param {string} key `accounts/{account}/keys/{key}`.
 * @param {SealedKey} sealedKey
 */
export async function keep(key, sealedKey) {
  const { sealingKey, blob } = sealedKey;
  await within(SEALED_KEYS, "readwrite", (store) => store.put({ sealingKey, blob }, key));
}

/**
 * Returns a kept key; undefined where there is none.
 *
 * @param {string} key `accounts/{account}/keys/{key}`.
 * @returns {Promise<SealedKey | undefined>}
 */
export async function held(key) {
  return within(SEALED_KEYS, "readonly", (store) => store.get(key));
}

/**
 * Forgets a kept key, or with an account's name all of its keys and its signing key, without which
 * they can never be used again.
 *
 * @param {string} name `accounts/{account}/keys/{key}` or `accounts/{account}`.
 */
export async function forget(name) {
  if (name.includes("/keys/")) {
    await within(SEALED_KEYS, "readwrite", (store) => store.delete(name));
    return;
  }
  const all = IDBKeyRange.bound(`${name}/keys/`, `${name}/keys/\uffff`);
  await within(SEALED_KEYS, "readwrite", (store) => store.delete(all));
  await within(SIGNING_KEYS, "readwrite", (store) => store.delete(name));
}

/**
 * Seals by HPKE (RFC 9180): base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256.
 *
 * @param {object} what
 * @param {Uint8Array} what.recipient Public key, 32 bytes.
 * @param {Uint8Array} what.info
 * @param {Uint8Array} what.plaintext
 * @param {Uint8Array} [what.aad]
 * @param {CryptoKeyPair} [what.ephemeral] A fresh one by default; another only for test vectors.
 * @param {{id: number, keyBytes: number}} [what.aead] AES-256-GCM by default.
 * @returns {Promise<Uint8Array>} The encapsulation followed by the ciphertext.
 */
export async function hpkeSeal({
  recipient, info, plaintext, aad = new Uint8Array(), ephemeral, aead = AES_256_GCM,
}) {
  const fresh = () => crypto.subtle.generateKey({ name: "X25519" }, true, ["deriveBits"]);
  const pair = ephemeral ?? (await fresh());
  const theirs = await crypto.subtle.importKey("raw", recipient, { name: "X25519" }, true, []);
  const enc = new Uint8Array(await crypto.subtle.exportKey("raw", pair.publicKey));
  const shared = await crypto.subtle.deriveBits(
    { name: "X25519", public: theirs }, pair.privateKey, 8 * HASH_BYTES,
  );

  // RFC 9180, 4.1: Encap.
  const kem = concat(utf8("KEM"), uint16(KEM_ID));
  const extracted = await labeledExtract(kem, new Uint8Array(), "eae_prk", new Uint8Array(shared));
  const context = concat(enc, recipient);
  const secret = await labeledExpand(kem, extracted, "shared_secret", context, HASH_BYTES);

  // RFC 9180, 5.1: KeySchedule in base mode, whose psk and psk_id are empty.
  const suite = concat(utf8("HPKE"), uint16(KEM_ID), uint16(KDF_ID), uint16(aead.id));
  const none = new Uint8Array();
  const schedule = concat(
    Uint8Array.of(0),
    await labeledExtract(suite, none, "psk_id_hash", none),
    await labeledExtract(suite, none, "info_hash", info),
  );
  const scheduled = await labeledExtract(suite, secret, "secret", none);
  const key = await labeledExpand(suite, scheduled, "key", schedule, aead.keyBytes);
  const nonce = await labeledExpand(suite, scheduled, "base_nonce", schedule, NONCE_BYTES);

  const cipher = await crypto.subtle.importKey("raw", key, "AES-GCM", false, ["encrypt"]);
  const sealed = await crypto.subtle.encrypt(
    { name: "AES-GCM", iv: nonce, additionalData: aad }, cipher, plaintext,
  );
  return concat(enc, new Uint8Array(sealed));
}

// ---- HPKE's key derivation (RFC 9180, 4; RFC 5869)

async function labeledExtract(suite, salt, label, ikm) {
  const labeled = concat(utf8("HPKE-v1"), suite, utf8(label), ikm);
  // An empty salt is as many zeros as the hash is long, which WebCrypto wants spelt out.
  return hmac(salt.length ? salt : new Uint8Array(HASH_BYTES), labeled);
}

async function labeledExpand(suite, prk, label, info, length) {
  const labeled = concat(uint16(length), utf8("HPKE-v1"), suite, utf8(label), info);
  // No output here is longer than one block.
  return (await hmac(prk, concat(labeled, Uint8Array.of(1)))).slice(0, length);
}

async function hmac(key, data) {
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  const imported = await crypto.subtle.importKey("raw", key, algorithm, false, ["sign"]);
  return new Uint8Array(await crypto.subtle.sign("HMAC", imported, data));
}

// ---- The signing key and the sealed keys, in IndexedDB

async function signingPair(account) {
  const found = await within(SIGNING_KEYS, "readonly", (store) => store.get(account));
  if (found !== undefined) {
    return found;
  }
  // `false`: the private key can be used here, but never be read by any script.
  const fresh = await crypto.subtle.generateKey(SIGNING, false, ["sign", "verify"]);
  try {
    await within(SIGNING_KEYS, "readwrite", (store) => store.add(fresh, account));
    return fresh;
  } catch (fault) {
    if (fault?.name !== "ConstraintError") {
      throw fault;
    }
    // Another tab made one at the same moment: of two, both take the first.
    return within(SIGNING_KEYS, "readonly", (store) => store.get(account));
  }
}

async function within(name, mode, work) {
  const database = await open();
  try {
    return await new Promise((resolve, reject) => {
      const transaction = database.transaction(name, mode);
      const request = work(transaction.objectStore(name));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = () => reject(request.error ?? transaction.error);
    });
  } finally {
    database.close();
  }
}

function open() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore(SIGNING_KEYS);
      request.result.createObjectStore(SEALED_KEYS);
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

// ---- Bytes

/** Joins parts, each after its length in eight bytes, so that no two lists give the same bytes. */
function canonical(parts) {
  return concat(...parts.flatMap((part) => [uint64(part.length), part]));
}

function concat(...parts) {
  const joined = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let place = 0;
  for (const part of parts) {
    joined.set(part, place);
    place += part.length;
  }
  return joined;
}

function uint16(value) {
  return Uint8Array.of(value >> 8, value & 0xff);
}

function uint64(value) {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value));
  return bytes;
}

function utf8(text) {
  return new TextEncoder().encode(text);
}

function toBase64(bytes) {
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}

function fromBase64(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

function accountOf(key) {
  return key.slice(0, key.indexOf("/keys/"));
}
