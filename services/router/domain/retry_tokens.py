# SPDX-License-Identifier: Apache-2.0
"""
A bucket of tokens that pay for one account's retries, so that retries cannot storm.

A retry takes a token; a served request gives a part of one back, and so does time. An account whose
calls mostly succeed never notices; one whose calls all fail is left with its first tries.
After gRPC's retry throttling: https://github.com/grpc/proposal/blob/master/A6-client-retries.md
"""

from __future__ import annotations

from dataclasses import dataclass

TOKENS_MAX = 10.0
TOKENS_PER_SUCCESS = 0.1
TOKENS_PER_SECOND = 0.1


@dataclass(frozen=True, slots=True)
class RetryTokens:
    """
    What is left, as of a moment in monotonic seconds.
    """

    tokens: float = TOKENS_MAX
    at: float = 0.0

    def left(self, now: float) -> float:
        """
        Count what is there now.
        """
        return min(TOKENS_MAX, self.tokens + max(0.0, now - self.at) * TOKENS_PER_SECOND)

    def may_retry(self, now: float) -> bool:
        """
        Tell whether a retry can be paid.
        """
        return self.left(now) >= 1.0

    def taken(self, now: float) -> RetryTokens:
        """
        Pay a retry.
        """
        return RetryTokens(self.left(now) - 1.0, now)

    def given(self, now: float) -> RetryTokens:
        """
        Take the part of a token in that a served request gives.
        """
        return RetryTokens(min(TOKENS_MAX, self.left(now) + TOKENS_PER_SUCCESS), now)
