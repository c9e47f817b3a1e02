// SPDX-License-Identifier: Apache-2.0

// A caller in Node: makes an account, gives it credits, stores a key, streams a text on that key,
// reads a typed failure, and repeats a request safely.
//
//   node build/examples/node/main.js < file-with-the-secret
//
// It speaks plain text, which the services allow on loopback only. In production pass
// credentials.createSsl with the certificate of an identity of the policy, and the target
// dns:///router:7102.

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

import { fromBinary } from "@bufbuild/protobuf";
import { anyUnpack, durationMs } from "@bufbuild/protobuf/wkt";
import grpc from "@grpc/grpc-js";

import { clientOf } from "./clients.js";
import { ErrorInfoSchema, RetryInfoSchema } from "./stubs/google/rpc/error_details_pb.js";
import { StatusSchema } from "./stubs/google/rpc/status_pb.js";
import { KeyvaultService } from "./stubs/ownkey/keyvault/v1/keyvault_service_pb.js";
import { BillingMode } from "./stubs/ownkey/ledger/v1/account_pb.js";
import { GrantKind } from "./stubs/ownkey/ledger/v1/grant_pb.js";
import { LedgerService } from "./stubs/ownkey/ledger/v1/ledger_service_pb.js";
import { FundingSchema } from "./stubs/ownkey/router/v1/attempt_pb.js";
import { RouterService } from "./stubs/ownkey/router/v1/router_service_pb.js";
import { FinishReasonSchema, Role } from "./stubs/ownkey/router/v1/text_pb.js";

const CALL_MILLIS = 20_000;
const TRIES_MAX = 4;
const WAIT_MILLIS = 200;
const NANO_PER_CREDIT = 1_000_000_000n; // 64 bits wide, so amounts are BigInt throughout

const keys = client(KeyvaultService, "OWNKEY_KEYVAULT", "127.0.0.1:7101");
const models = client(RouterService, "OWNKEY_ROUTER", "127.0.0.1:7102");
const credits = client(LedgerService, "OWNKEY_LEDGER", "127.0.0.1:7103");

function client(service, variable, usual) {
  return clientOf(service, process.env[variable] ?? usual, grpc.credentials.createInsecure());
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
  for (const detail of fromBinary(StatusSchema, bytes).details) {
    const info = anyUnpack(detail, ErrorInfoSchema);
    if (info) Object.assign(found, { reason: info.reason, metadata: info.metadata });
    const retry = anyUnpack(detail, RetryInfoSchema);
    if (retry?.retryDelay) found.millis = durationMs(retry.retryDelay);
  }
  return found;
}

/**
 * Repeats a call that may be repeated under its requestId, which finds the first outcome if there
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
    requestId: randomUUID(),
    accountId: `node-${randomUUID().slice(0, 8)}`,
    plan: "plans/standard",
    billingMode: BillingMode.OWN_KEY_FIRST,
  });
  const account = created.account.name;
  const grant = {
    requestId: randomUUID(),
    account,
    kind: GrantKind.PURCHASED,
    amountNanoCredits: 10n * NANO_PER_CREDIT,
  };
  // Sent twice under one id, as after a lost answer: it is granted once.
  await retried(credits, "GrantCredits", grant);
  await retried(credits, "GrantCredits", grant);
  const { balance } = await call(credits, "GetBalance", { account });
  console.log(`account ${account} has ${balance.availableNanoCredits / NANO_PER_CREDIT} credits`);
  return account;
}

/** First pastes a key of another provider, to show a typed failure, then stores the right one. */
async function storeKey(account, secret) {
  const request = { parent: account, key: { provider: "openai", label: "from Node" } };
  const wrong = { ...request, secret: `sk-or-v1-${"0".repeat(64)}`, requestId: randomUUID() };
  const failure = await call(keys, "CreateKey", wrong).then(() => ({}), read);
  if (failure.reason !== "SECRET_MALFORMED") throw new Error("the wrong key was not refused");
  console.log(`refused ${failure.reason}, looks like ${failure.metadata.looks_like}`);

  const stored = await retried(keys, "CreateKey", { ...request, secret, requestId: randomUUID() });
  console.log(`stored ${stored.key.hint}`);
}

/** Streams a text. Without a `finish` the stream did not end well, whatever came before. */
async function generate(account) {
  const stream = models.StreamText(
    {
      account,
      requestId: randomUUID(),
      model: "openai/gpt-4o-mini",
      input: {
        messages: [{ role: Role.USER, parts: [text("What is a data key?")] }],
        maxOutputTokens: 64,
      },
    },
    { deadline: Date.now() + CALL_MILLIS },
  );
  let finished = false;
  for await (const { event } of stream) {
    if (event.case === "start") {
      console.log(`paid by ${nameOf(FundingSchema, event.value.payer)} at ${event.value.provider}`);
    } else if (event.case === "textDelta") {
      process.stdout.write(event.value);
    } else if (event.case === "finish") {
      finished = true;
      console.log(`\nfinished ${nameOf(FinishReasonSchema, event.value.finishReason)}`);
    }
  }
  if (!finished) throw new Error("the stream ended without a finish");
}

/** A part of a message; which of a oneof's fields is set, its case says. */
function text(value) {
  return { content: { case: "text", value } };
}

/** A value of an enum by its name in the protos. */
function nameOf(schema, number) {
  return schema.value[number].name;
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
