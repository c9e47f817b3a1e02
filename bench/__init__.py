# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: each measures its bars as ratios within one run and prints its figures last."""

from __future__ import annotations
