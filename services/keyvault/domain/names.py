# SPDX-License-Identifier: Apache-2.0
"""Keyvault's resource names."""

from __future__ import annotations

from services.shared.names import ACCOUNT, ResourceName

KEY = ResourceName("accounts/{account}/keys/{key}")
SETTINGS = ResourceName("accounts/{account}/settings")
SEALING_KEY = ResourceName("sealingKeys/{sealing_key}")
JOB = ResourceName("accounts/{account}/jobs/{job}")
"""A job of the router, as a proof names it."""
AUDIT_EVENT = "accounts/{account}/auditEvents/{number}"

PLATFORM = "platform"
"""The account that owns the product's shared keys."""

__all__ = ["ACCOUNT", "AUDIT_EVENT", "JOB", "KEY", "PLATFORM", "SEALING_KEY", "SETTINGS"]
