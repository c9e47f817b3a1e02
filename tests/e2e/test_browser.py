# SPDX-License-Identifier: Apache-2.0
"""The browser module in headless Chromium, against the running suite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from ownkey.keyvault.v1 import keyvault_service_pb2
from ownkey.ledger.v1 import account_pb2
from ownkey.router.v1 import router_service_pb2
from playwright.async_api import Browser, Page

from deploy.local.clients import Clients
from deploy.local.suite import Suite as LocalSuite
from services.shared.ids import new_id
from tests.e2e import support
from tests.support.browser import open_page, page_origin, running_browser

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEYVAULT = keyvault_service_pb2.DESCRIPTOR.services_by_name["KeyvaultService"]
ROUTER = router_service_pb2.DESCRIPTOR.services_by_name["RouterService"]

# RFC 9180, appendix A.1.1: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-128-GCM, base mode.
# https://www.rfc-editor.org/rfc/rfc9180.html#appendix-A.1.1
RFC_VECTOR = {
    "info": "4f6465206f6e2061204772656369616e2055726e",
    "skEm": "52c4a758a802cd8b936eceea314432798d5baf2d7e9235dc084ab1b9cfa2f736",
    "pkEm": "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431",
    "pkRm": "3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d",
    "pt": "4265617574792069732074727574682c20747275746820626561757479",
    "aad": "436f756e742d30",
}
RFC_CIPHERTEXT = (
    "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a"
)
SEAL_THE_VECTOR = """async (vector) => {
  const bytes = (hex) => Uint8Array.from(hex.match(/../g), (pair) => parseInt(pair, 16));
  const text = (data) => btoa(String.fromCharCode(...data))
    .replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  const jwk = { kty: "OKP", crv: "X25519", x: text(bytes(vector.pkEm)) };
  const load = (key, usages) =>
    crypto.subtle.importKey("jwk", key, { name: "X25519" }, true, usages);
  const ephemeral = {
    publicKey: await load(jwk, []),
    privateKey: await load({ ...jwk, d: text(bytes(vector.skEm)) }, ["deriveBits"]),
  };
  const sealed = await ownkey.hpkeSeal({
    recipient: bytes(vector.pkRm), info: bytes(vector.info), plaintext: bytes(vector.pt),
    aad: bytes(vector.aad), ephemeral, aead: { id: 1, keyBytes: 16 },
  });
  return Array.from(sealed, (byte) => byte.toString(16).padStart(2, "0")).join("");
}"""
SUBMIT = """async ({ account, secret, requestId }) => {
  const { sealingKey } = await rpc("ownkey.keyvault.v1.KeyvaultService/GetSealingKey",
    { suite: "SEALING_SUITE_X25519" });
  const sealedKey = await ownkey.seal({ account, provider: "openai", secret, sealingKey });
  const proof = await ownkey.prove({ account, provider: "openai", requestId });
  const created = await rpc("ownkey.keyvault.v1.KeyvaultService/CreateKey", {
    parent: account, requestId, sealedKey, proof,
    key: { provider: "openai", residence: "RESIDENCE_CLIENT_HELD" },
  });
  if (created.key) await ownkey.keep(created.key.name, sealedKey);
  return created;
}"""
GENERATE = """async ({ account, key, requestId, model }) => {
  const brought = await ownkey.bring(key, { provider: "openai", requestId });
  return rpc("ownkey.router.v1.RouterService/GenerateText", {
    account, requestId, model, clientHeldKeys: [brought],
    input: { messages: [{ role: "ROLE_USER", parts: [{ text: "Hello" }] }], maxOutputTokens: 16 },
  });
}"""
LOOK = """async ({ account, key }) => {
  const stored = [];
  const open = indexedDB.open("ownkey");
  await new Promise((resolve) => { open.onsuccess = resolve; });
  for (const name of open.result.objectStoreNames) {
    const request = open.result.transaction(name).objectStore(name).getAll();
    await new Promise((resolve) => { request.onsuccess = resolve; });
    stored.push(...request.result);
  }
  open.result.close();
  const pair = stored.find((item) => item.privateKey);
  const exported = pair && await crypto.subtle.exportKey("jwk", pair.privateKey)
    .then(() => "exported", (fault) => fault.name);
  return { exported, extractable: pair?.privateKey.extractable,
    kept: JSON.stringify(stored), held: await ownkey.held(key) };
}"""


@dataclass(frozen=True, slots=True)
class Stage:
    """
    What all tests here share: starting a browser takes longer than a test.

    Args:
        browser: Chromium.
        clients: Stubs to the suite.
        address: Of a product's page with the module, relayed to the suite.
    """

    browser: Browser
    clients: Clients
    address: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(suite: LocalSuite) -> AsyncIterator[Stage]:
    """The browser, and what its pages talk to."""
    async with running_browser() as browser, support.clients_of(suite) as clients:
        stubs = {KEYVAULT: clients.keyvault, ROUTER: clients.router}
        async with page_origin(stubs) as address:
            yield Stage(browser, clients, address)


@pytest_asyncio.fixture(loop_scope="module")
async def page(stage: Stage) -> AsyncIterator[Page]:
    """A page in a profile of its own."""
    context = await stage.browser.new_context()
    try:
        yield await open_page(context, stage.address)
    finally:
        await context.close()


async def submitted(clients: Clients, page: Page, secret: str) -> dict[str, Any]:
    """An account of a mode that only own keys serve, with a key that the page holds."""
    mode = account_pb2.BILLING_MODE_OWN_KEY_ONLY
    account = await support.new_account(clients, mode=mode)
    about = {"account": account, "secret": secret, "requestId": new_id()}
    created = await page.evaluate(SUBMIT, about)
    assert "key" in created, created
    return {"account": account, "key": created["key"]["name"], "model": support.MODELS["openai"]}


@pytest.mark.requirement("K10")
class TestBrowser:
    async def test_it_seals_as_the_rfc_says(self, page: Page) -> None:
        sealed = await page.evaluate(SEAL_THE_VECTOR, RFC_VECTOR)

        assert sealed == RFC_VECTOR["pkEm"] + RFC_CIPHERTEXT

    async def test_what_it_seals_with_its_own_suite_opens_elsewhere(self, page: Page) -> None:
        key = X25519PrivateKey.generate()
        sealed = await page.evaluate(
            """async (recipient) => Array.from(await ownkey.hpkeSeal({
                 recipient: Uint8Array.from(recipient),
                 info: new TextEncoder().encode("info"),
                 plaintext: new TextEncoder().encode("text"),
               }))""",
            list(key.public_key().public_bytes_raw()),
        )
        suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)

        assert suite.decrypt(bytes(sealed), key, info=b"info") == b"text"

    async def test_a_key_is_sealed_once_and_serves_with_a_proof_for_each_request(
        self, stage: Stage, page: Page
    ) -> None:
        secret = support.new_secret()
        about = await submitted(stage.clients, page, f'"{secret}"\n')
        tests = len(await support.recorded_requests(stage.clients, secret))
        answers = [
            await page.evaluate(GENERATE, {**about, "requestId": new_id().upper()})
            for _ in range(2)
        ]
        sent = await support.recorded_requests(stage.clients, secret)

        assert [answer["receipt"]["attempts"][0]["key"] for answer in answers] == [about["key"]] * 2
        assert len(sent) - tests == 2

    async def test_the_signing_key_stays_in_and_the_secret_is_not_kept(
        self, stage: Stage, page: Page
    ) -> None:
        secret = support.new_secret()
        about = await submitted(stage.clients, page, secret)
        await page.reload()
        await page.wait_for_function("globalThis.rpc !== undefined")
        found = await page.evaluate(LOOK, about)

        assert (found["exported"], found["extractable"]) == ("InvalidAccessError", False)
        assert found["held"]["sealingKey"].startswith("sealingKeys/x25519-")
        assert secret not in found["kept"]

    async def test_what_is_forgotten_is_gone_and_another_browser_cannot_prove(
        self, stage: Stage, page: Page
    ) -> None:
        about = await submitted(stage.clients, page, support.new_secret())
        held = await page.evaluate("(about) => ownkey.held(about.key)", about)
        await page.evaluate("(about) => ownkey.forget(about.account)", about)
        code = await page.evaluate(
            "(about) => ownkey.bring(about.key, about).then(() => 0, (fault) => fault.code)", about
        )
        # The sealed key, carried to a browser with another signing key.
        await page.evaluate("([key, held]) => ownkey.keep(key, held)", [about["key"], held])
        refused = await page.evaluate(GENERATE, {**about, "requestId": new_id()})

        assert code == "NOT_HELD"
        assert (refused["reason"], refused["metadata"]["fault"]) == ("PROOF_REFUSED", "SIGNATURE")

    async def test_a_key_moves_from_the_server_to_the_browser(
        self, stage: Stage, page: Page
    ) -> None:
        mode = account_pb2.BILLING_MODE_OWN_KEY_ONLY
        account = await support.new_account(stage.clients, mode=mode)
        key = await support.add_key(stage.clients, account)
        about = {"account": account, "key": key.name, "model": support.MODELS["openai"]}
        await page.evaluate(
            """async ({ account, key, requestId }) => {
              const moved = await rpc("ownkey.keyvault.v1.KeyvaultService/MoveKey", {
                name: key, residence: "RESIDENCE_CLIENT_HELD", requestId,
                suite: "SEALING_SUITE_X25519", signingKey: await ownkey.signingKey(account),
                proof: await ownkey.prove({ account, provider: "openai", requestId }),
              });
              await ownkey.keep(key, moved.sealedKey);
            }""",
            {**about, "requestId": new_id()},
        )
        answer = await page.evaluate(GENERATE, {**about, "requestId": new_id()})

        assert answer["receipt"]["attempts"][0]["key"] == key.name

    async def test_a_page_learns_why_it_cannot_seal(self, page: Page) -> None:
        codes = await page.evaluate(
            """async () => {
              const key = { name: "sealingKeys/x25519-1", suite: "SEALING_SUITE_X25519",
                publicKey: "", expireTime: "2020-01-01T00:00:00Z" };
              const what = { account: "accounts/demo", provider: "openai", secret: "x" };
              const told = (sealingKey, secret) =>
                ownkey.seal({ ...what, secret, sealingKey }).then(() => "", (fault) => fault.code);
              const fresh = { ...key, expireTime: "2999-01-01T00:00:00Z" };
              return [await told({ ...key, suite: "SEALING_SUITE_X25519_ML_KEM_768" }, "x"),
                await told(key, "x"), await told(fresh, "x".repeat(16 * 1024 + 1))];
            }"""
        )

        assert codes == ["UNSUPPORTED", "EXPIRED", "TOO_LARGE"]
