# SPDX-License-Identifier: Apache-2.0
"""The ledger: who pays. Accounts, plans, credits, holds and usage."""

from __future__ import annotations
