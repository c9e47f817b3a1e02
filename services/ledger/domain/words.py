# SPDX-License-Identifier: Apache-2.0
"""Words: closed sets of strings that are stored, sent and compared."""

from __future__ import annotations

from enum import StrEnum


class Word(StrEnum):
    """
    A member of a closed set of strings.

    Words are looked up in dictionaries for every attempt: they hash as the strings they are, in the
    place of Enum's own hash, which is a call of Python.
    """

    __hash__ = str.__hash__
