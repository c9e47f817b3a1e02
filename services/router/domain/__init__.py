# SPDX-License-Identifier: Apache-2.0
"""Pure rules: who may serve a request, what comes next, what it costs."""
