# SPDX-License-Identifier: Apache-2.0
"""What the ledger does, one module a use case, over ports."""

from __future__ import annotations
