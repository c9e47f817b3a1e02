# SPDX-License-Identifier: Apache-2.0
"""The RPCs that a policy is about; who may call them stands in `policy.yaml`."""

from __future__ import annotations

from ownkey.router.v1 import router_service_pb2

# Loading the file that declares the service also lets reflection find it.
DESCRIPTOR = router_service_pb2.DESCRIPTOR.services_by_name["RouterService"]
SERVICE = DESCRIPTOR.full_name
