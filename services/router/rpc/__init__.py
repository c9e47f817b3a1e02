# SPDX-License-Identifier: Apache-2.0
"""The gRPC face: servicer, mapping, status table, policy."""
