# SPDX-License-Identifier: Apache-2.0
"""The ledger's gRPC surface."""

from __future__ import annotations
