# SPDX-License-Identifier: Apache-2.0
"""A customer's browser for tests: seals a key once and proves each request."""

from __future__ import annotations

from typing import Any

from ownkey.keyvault.v1 import key_pb2, sealing_pb2
from ownkey.keyvault.v1 import keyvault_service_pb2 as service_pb2

from client.ownkey_client.client_held import ClientHeldKeys
from tests.support.keyvault import OPENAI_KEY, RunningKeyvault, new_request_id, refusal

MAIN = "accounts/demo/keys/main"
HELD = key_pb2.RESIDENCE_CLIENT_HELD
X25519 = sealing_pb2.SEALING_SUITE_X25519
HYBRID = sealing_pb2.SEALING_SUITE_X25519_ML_KEM_768


class FakeBrowser:
    """
    Holds one sealed key.

    Args:
        stub: Keyvault, for the sealing key.
        account: `accounts/{account}`.
        provider: Provider id.
    """

    def __init__(
        self, stub: Any, *, account: str = "accounts/demo", provider: str = "openai"
    ) -> None:
        self.keys = ClientHeldKeys()
        self.account = account
        self.provider = provider
        self.sealed: sealing_pb2.SealedKey | None = None
        self._stub = stub

    async def seal(self, secret: str, suite: Any = X25519) -> sealing_pb2.SealedKey:
        """Seal a secret and keep it."""
        answer = await self._stub.GetSealingKey(service_pb2.GetSealingKeyRequest(suite=suite))
        self.sealed = self.keys.seal(
            answer.sealing_key, account=self.account, provider=self.provider, secret=secret
        )
        return self.sealed

    def bring(self, request_id: str = "", **proof: Any) -> dict[str, Any]:
        """Return the fields of a request that brings the key, with a fresh proof."""
        request_id = request_id or new_request_id()
        about = {"account": self.account, "provider": self.provider, **proof}
        return {
            "request_id": request_id,
            "sealed_key": self.sealed,
            "proof": self.keys.prove(request_id=request_id, **about),
        }


async def hold(vaulted: RunningKeyvault, secret: str = OPENAI_KEY, **fields: Any) -> FakeBrowser:
    """Create the key `main`, held by a browser, and return that browser."""
    browser = FakeBrowser(vaulted.stub)
    await browser.seal(secret, fields.pop("suite", X25519))
    await vaulted.create("", key_id="main", residence=HELD, **browser.bring(), **fields)
    return browser


def opening(browser: FakeBrowser, **fields: Any) -> service_pb2.OpenSealedKeyRequest:
    """The router's request to open the key `main`."""
    about = {"name": MAIN, "provider": "openai", **fields}
    bring = {name: about.pop(name) for name in ("job", "expire_time") if name in about}
    request_id = about.pop("request_id", "")
    return service_pb2.OpenSealedKeyRequest(**{**browser.bring(request_id, **bring), **about})


async def opened(vaulted: RunningKeyvault, request: Any) -> service_pb2.OpenSealedKeyResponse:
    """Open a key as the router."""
    return await vaulted.stub.OpenSealedKey(request, metadata=vaulted.as_router)


async def refused(vaulted: RunningKeyvault, request: Any) -> tuple[str, str]:
    """Reason and fault of an opening that must fail."""
    status = await refusal(opened(vaulted, request))
    assert status.message
    assert OPENAI_KEY not in str(status)
    return status.reason, status.metadata.get("fault", "")
