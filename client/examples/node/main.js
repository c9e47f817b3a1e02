// SPDX-License-Identifier: Apache-2.0

// A caller in Node: makes an account, gives it credits, stores a key, streams a text on that key,
// reads a typed failure, and repeats a request safely.
//
//   node build/examples/node/main.js < file-with-the-secret
//
// It speaks plain text, which the services allow on loopback only. In production pass
// credentials.createSsl with the certificate of an identity of the policy, and the target
// dns:///router:7102 with the round_robin policy.

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const CALL_MILLIS = 20_000;
const TRIES_MAX = 4;
const WAIT_MILLIS = 200;
const NANO_PER_CREDIT = 1_000_000_000n;

// int64 stays text: amounts in nano-credits do not fit a number.
const OPTIONS = { keepCase: true, longs: String, enums: String, defaults: true, oneofs: true };
const protos = process.env.OWNKEY_PROTOS ?? "protos";
const googleapis = process.env.OWNKEY_GOOGLEAPIS ?? "build/googleapis";
const files = [
  ...["keyvault", "router", "ledger"].map((one) => `ownkey/${one}/v1/${one}_service.proto`),
  "google/rpc/error_details.proto",
  "google/rpc/status.proto",
];
const definition = loadSync(files, { ...OPTIONS, includeDirs: [protos, googleapis] });
const { ownkey } = grpc.loadPackageDefinition(definition);

const keys = client(ownkey.keyvault.v1.KeyvaultService, "OWNKEY_KEYVAULT", "127.0.0.1:7101");
const models = client(ownkey.router.v1.RouterService, "OWNKEY_ROUTER", "127.0.0.1:7102");
const credits = client(ownkey.ledger.v1.LedgerService, "OWNKEY_LEDGER", "127.0.0.1:7103");

function client(Service, variable, usual) {
  return new Service(process.env[variable] ?? usual, grpc.credentials.createInsecure());
}

/** One call with a deadline; rejects with gRPC's error. */
function call(service, rpc, request) {
  return new Promise((resolve, reject) => {
    const options = { deadline: Date.now() + CALL_MILLIS };
    service[rpc](request, options, (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

/**
 * Takes a failure apart: one ErrorInfo for programs, RetryInfo where waiting helps, and a sentence
 * for people. Without an ErrorInfo the service itself did not answer.
 */
function read(error) {
  const found = { code: error.code, reason: "", message: error.details, metadata: {}, millis: 0 };
  const [bytes] = error.metadata?.get("grpc-status-details-bin") ?? [];
  if (!bytes) return found;
  for (const { type_url: type, value } of decode("google.rpc.Status", bytes).details) {
    if (type.endsWith("/google.rpc.ErrorInfo")) {
      const info = decode("google.rpc.ErrorInfo", value);
      Object.assign(found, { reason: info.reason, metadata: info.metadata });
    } else if (type.endsWith("/google.rpc.RetryInfo")) {
      const { seconds, nanos } = decode("google.rpc.RetryInfo", value).retry_delay;
      found.millis = Number(seconds) * 1000 + nanos / 1_000_000;
    }
  }
  return found;
}

function decode(type, bytes) {
  return definition[type].deserialize(bytes);
}

/**
 * Repeats a call that may be repeated under its request_id, which finds the first outcome if there
 * is one.
 */
async function retried(service, rpc, request) {
  const passing = [grpc.status.UNAVAILABLE, grpc.status.RESOURCE_EXHAUSTED];
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await call(service, rpc, request);
    } catch (error) {
      const failed = read(error);
      if (!passing.includes(failed.code) || attempt === TRIES_MAX) throw error;
      await sleep(Math.max(failed.millis, WAIT_MILLIS * attempt));
    }
  }
}

/** Makes an account whose own keys come first, and gives it ten credits. */
async function openAccount() {
  const created = await call(credits, "CreateAccount", {
    request_id: randomUUID(),
    account_id: `node-${randomUUID().slice(0, 8)}`,
    plan: "plans/standard",
    billing_mode: "BILLING_MODE_OWN_KEY_FIRST",
  });
  const account = created.account.name;
  const grant = {
    request_id: randomUUID(),
    account,
    kind: "GRANT_KIND_PURCHASED",
    amount_nano_credits: String(10n * NANO_PER_CREDIT),
  };
  // Sent twice under one id, as after a lost answer: it is granted once.
  await retried(credits, "GrantCredits", grant);
  await retried(credits, "GrantCredits", grant);
  const { balance } = await call(credits, "GetBalance", { account });
  console.log(`account ${account} has ${BigInt(balance.available_nano_credits) / NANO_PER_CREDIT} credits`);
  return account;
}

/** First pastes a key of another provider, to show a typed failure, then stores the right one. */
async function storeKey(account, secret) {
  const request = { parent: account, key: { provider: "openai", label: "from Node" } };
  const wrong = { ...request, secret: `sk-or-v1-${"0".repeat(64)}`, request_id: randomUUID() };
  const failure = await call(keys, "CreateKey", wrong).then(() => ({}), read);
  if (failure.reason !== "SECRET_MALFORMED") throw new Error("the wrong key was not refused");
  console.log(`refused ${failure.reason}, looks like ${failure.metadata.looks_like}`);

  const stored = await retried(keys, "CreateKey", { ...request, secret, request_id: randomUUID() });
  console.log(`stored ${stored.key.hint}`);
}

/** Streams a text. Without a `finish` the stream did not end well, whatever came before. */
async function generate(account) {
  const stream = models.StreamText(
    {
      account,
      request_id: randomUUID(),
      model: "openai/gpt-4o-mini",
      input: {
        messages: [{ role: "ROLE_USER", parts: [{ text: "What is a data key?" }] }],
        max_output_tokens: 64,
      },
    },
    { deadline: Date.now() + CALL_MILLIS },
  );
  for await (const answer of stream) {
    if (answer.event === "start") console.log(`paid by ${answer.start.payer} at ${answer.start.provider}`);
    if (answer.event === "text_delta") process.stdout.write(answer.text_delta);
    if (answer.event === "finish") console.log(`\nfinished ${answer.finish.finish_reason}`);
  }
}

try {
  const account = await openAccount();
  await storeKey(account, readFileSync(0, "utf8"));
  await generate(account);
} catch (error) {
  const failure = read(error);
  console.error(`${failure.reason || failure.code}: ${failure.message ?? error.message}`);
  process.exitCode = 1;
} finally {
  for (const one of [keys, models, credits]) one.close();
}
