# SPDX-License-Identifier: Apache-2.0
"""The spine that every service stands on; it knows no service's nouns."""
