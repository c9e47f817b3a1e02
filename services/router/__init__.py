# SPDX-License-Identifier: Apache-2.0
"""The router: selects a provider and calls it, on the customer's own key or on a shared key."""
