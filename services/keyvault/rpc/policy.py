# SPDX-License-Identifier: Apache-2.0
"""Who may call what. Whose keys they may touch is checked by the servicer."""

from __future__ import annotations

from ownkey.keyvault.v1 import keyvault_service_pb2

from services.shared.identity import ANONYMOUS, OPERATOR, ROUTER, Policy

SERVICE = keyvault_service_pb2.DESCRIPTOR.services_by_name["KeyvaultService"].full_name

_EVERYBODY = frozenset({ANONYMOUS, OPERATOR})
_OPERATORS = frozenset({OPERATOR})
_ROUTERS = frozenset({ROUTER})

_ROWS = {
    "CreateKey": _EVERYBODY,
    "GetKey": _EVERYBODY,
    "ListKeys": _EVERYBODY,
    "UpdateKey": _EVERYBODY,
    "ReplaceKey": _EVERYBODY,
    "DeleteKey": _EVERYBODY,
    "TestKey": _EVERYBODY,
    "ActivateKey": _EVERYBODY,
    "EnableKey": _EVERYBODY,
    "DisableKey": _EVERYBODY,
    "GetSettings": _EVERYBODY,
    "UpdateSettings": _EVERYBODY,
    "GetSealingKey": _EVERYBODY,
    "ListAuditEvents": _EVERYBODY,
    "VerifyAudit": _OPERATORS,
    "RotateKek": _OPERATORS,
    "RewrapKeys": _OPERATORS,
    "ReencryptKeys": _OPERATORS,
    "RetireKekVersions": _OPERATORS,
    "GetKekStatus": _OPERATORS,
    "ResolveKeys": _ROUTERS,
    "OpenSealedKey": _ROUTERS,
    "WatchChanges": _ROUTERS,
    "ReportKeyHealth": _ROUTERS,
}

POLICY = Policy({f"/{SERVICE}/{rpc}": identities for rpc, identities in _ROWS.items()})
