# SPDX-License-Identifier: Apache-2.0
"""
The kinds of work, as plans price them.
"""

from __future__ import annotations

from enum import StrEnum


class Operation(StrEnum):
    """
    A kind of work.
    """

    TEXT = "text"
    IMAGE = "image"
    SPEECH = "speech"
    JOB = "job"

    @property
    def may_repeat(self) -> bool:
        """
        Tell whether a call that may have been billed without an answer is made once more.
        """
        return self is Operation.TEXT

    @property
    def is_drawn_whole(self) -> bool:
        """
        Tell whether a provider makes and bills all of it, whoever listens.
        """
        return self in (Operation.IMAGE, Operation.SPEECH)
