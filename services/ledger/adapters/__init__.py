# SPDX-License-Identifier: Apache-2.0
"""What the ledger stands on, one outside system a file."""

from __future__ import annotations
