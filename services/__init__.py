# SPDX-License-Identifier: Apache-2.0
"""The three services of Ownkey and the spine they share."""
