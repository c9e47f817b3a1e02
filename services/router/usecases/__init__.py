# SPDX-License-Identifier: Apache-2.0
"""One module for each thing the router does, over ports."""
