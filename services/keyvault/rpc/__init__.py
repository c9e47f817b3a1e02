# SPDX-License-Identifier: Apache-2.0
"""Keyvault's gRPC surface."""

from __future__ import annotations
