# SPDX-License-Identifier: Apache-2.0
"""
What a model refuses by its size, told before anything is sent.

Nothing is refused that the provider would take: a prompt only where the fewest tokens that it can
have are more than the model takes in, an output limit only above the one the model's maker states.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.router.domain.request import TextInput
from services.router.domain.token_bound import input_tokens_min

if TYPE_CHECKING:
    from services.router.domain.catalogue import Model
    from services.router.domain.work import Work


def input_excess(work: Work, model: Model) -> str:
    """
    Say by how much a prompt is too long for a model; empty where it may fit.
    """
    if not isinstance(work, TextInput) or not model.context_tokens:
        return ""
    limit, vendor = model.context_tokens, model.id.partition("/")[0]
    least = input_tokens_min(work, vendor=vendor, above=limit)
    if least <= limit:
        return ""
    return f"holds {least:,} tokens at least, and {model.id} takes {limit:,} at most"


def output_excess(work: Work, model: Model) -> str:
    """
    Say by how much more output is asked for than a model gives; empty where it may give it.
    """
    if not isinstance(work, TextInput) or work.max_output_tokens is None:
        return ""
    limit = model.output_tokens_max
    if not limit or work.max_output_tokens <= limit:
        return ""
    return f"is {work.max_output_tokens:,}, and {model.id} gives {limit:,} tokens at most"
