# SPDX-License-Identifier: Apache-2.0
"""Keyvault: which secret. Keys, their versions and health, and the audit trail."""

from __future__ import annotations
