# SPDX-License-Identifier: Apache-2.0
"""The RPCs that a policy is about; who may call them stands in `policy.yaml`."""

from __future__ import annotations

from ownkey.keyvault.v1 import keyvault_service_pb2

# Loading the file that declares the service also lets reflection find it.
DESCRIPTOR = keyvault_service_pb2.DESCRIPTOR.services_by_name["KeyvaultService"]
SERVICE = DESCRIPTOR.full_name
