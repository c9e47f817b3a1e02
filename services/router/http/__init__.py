# SPDX-License-Identifier: Apache-2.0
"""The HTTP door: official SDKs' requests onto the router's use cases."""
