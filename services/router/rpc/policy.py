# SPDX-License-Identifier: Apache-2.0
"""Who may call the router."""

from __future__ import annotations

from ownkey.router.v1 import router_service_pb2

from services.shared.identity import ANONYMOUS, KEYVAULT, OPERATOR, Policy

# Loading the file that declares the service also lets reflection find it.
SERVICE = router_service_pb2.DESCRIPTOR.services_by_name["RouterService"].full_name

_CUSTOMERS_BACKENDS = frozenset({ANONYMOUS, OPERATOR})

_ROWS = {
    "GenerateText": _CUSTOMERS_BACKENDS,
    "StreamText": _CUSTOMERS_BACKENDS,
    "GenerateImage": _CUSTOMERS_BACKENDS,
    "SynthesizeSpeech": _CUSTOMERS_BACKENDS,
    "StartJob": _CUSTOMERS_BACKENDS,
    "GetJob": _CUSTOMERS_BACKENDS,
    "ListJobs": _CUSTOMERS_BACKENDS,
    "WaitJob": _CUSTOMERS_BACKENDS,
    "GetJobOutput": _CUSTOMERS_BACKENDS,
    "CancelJob": _CUSTOMERS_BACKENDS,
    "Explain": _CUSTOMERS_BACKENDS,
    "EstimateCost": _CUSTOMERS_BACKENDS,
    "ListProviders": _CUSTOMERS_BACKENDS,
    "ListModels": _CUSTOMERS_BACKENDS,
    "GetModel": _CUSTOMERS_BACKENDS,
    "ProbeKey": frozenset({KEYVAULT}),
}

POLICY = Policy({f"/{SERVICE}/{rpc}": identities for rpc, identities in _ROWS.items()})
