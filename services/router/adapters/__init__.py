# SPDX-License-Identifier: Apache-2.0
"""One outside system for each module."""
