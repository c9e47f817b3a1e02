# SPDX-License-Identifier: Apache-2.0
"""Keyvault's rules: pure, without I/O, clocks or chance."""

from __future__ import annotations
