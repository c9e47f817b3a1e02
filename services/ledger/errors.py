# SPDX-License-Identifier: Apache-2.0
"""
The ledger's failures.

A `Refusal` is a decision about money or mode: it is recorded with the id it answers, and a repeat
of that id is refused in the same words. The other failures depend on the moment and are not.
"""

from __future__ import annotations

from typing import ClassVar

from services.shared.errors import ServiceError


class AccountNotFoundError(ServiceError):
    """There is no such account."""

    def __init__(self, account_id: str) -> None:
        name = f"accounts/{account_id}"
        super().__init__(
            f"there is no account {name}; create it with CreateAccount",
            metadata={"account": name},
        )


class AuthorizationNotFoundError(ServiceError):
    """There is no such authorization, or the request was never authorized."""


class RequestIdReusedError(ServiceError):
    """A request id came back with another body."""

    def __init__(self, request_id: str) -> None:
        super().__init__(
            f"request_id {request_id} was used before with another body; make a new one for a new "
            "request, and repeat a request unchanged",
            metadata={"request_id": request_id},
        )


class RequestInProgressError(ServiceError):
    """Another claimant works on the request under a live lease."""

    def __init__(self, request_id: str, *, retry_after_seconds: float) -> None:
        super().__init__(
            f"request {request_id} is being worked on; ask again shortly with the same id",
            metadata={"request_id": request_id},
            retry_after_seconds=retry_after_seconds,
        )


class SequenceOutOfOrderError(ServiceError):
    """An attempt's number is not the next one, or the attempt before it is still open."""

    def __init__(self, sequence: int, *, expected: int, why: str) -> None:
        super().__init__(
            f"attempt {sequence} cannot be authorized: {why}",
            metadata={"sequence": str(sequence), "expected": str(expected)},
        )


class AlreadySettledError(ServiceError):
    """An attempt was settled before, otherwise than now."""

    def __init__(self, authorization: str, *, state: str) -> None:
        super().__init__(
            f"{authorization} was settled before as {state}, and otherwise than this call says; "
            "that settlement stands. Read it with GetAuthorization",
            metadata={"authorization": authorization, "state": state},
        )


class LeaseLapsedError(ServiceError):
    """An attempt's lease ran out and it was settled at its last checkpoint."""

    def __init__(self, authorization: str) -> None:
        super().__init__(
            f"the lease of {authorization} ran out and it was settled at its last checkpoint; "
            "send Capture or Release for what was used, and start the request anew",
            metadata={"authorization": authorization},
        )


class OwnKeysUnknownError(ServiceError):
    """Whether an own key serves could not be found out, and who pays depends on it."""

    def __init__(self) -> None:
        super().__init__(
            "whether an own key serves this request could not be found out, so nobody was asked "
            "to pay; try again shortly",
            metadata={"own_key_state": "UNKNOWN"},
            retry_after_seconds=1.0,
        )


class Refusal(ServiceError):  # noqa: N818 - it is recorded as an answer, not as a fault
    """Base of the recorded refusals; never raised directly."""

    reason: ClassVar[str]


class AccountExistsError(Refusal):
    """The account's id is taken."""

    reason = "ACCOUNT_EXISTS"


class PlanNotFoundError(Refusal):
    """The plans file has no such plan."""

    reason = "PLAN_NOT_FOUND"


class ModeNotAllowedError(Refusal):
    """The account's plan does not allow the billing mode."""

    reason = "MODE_NOT_ALLOWED"


class ModeChangeRequiredError(Refusal):
    """The new plan forbids the current mode and no new one was named."""

    reason = "MODE_CHANGE_REQUIRED"


class EtagMismatchError(Refusal):
    """The account has changed since it was read."""

    reason = "ETAG_MISMATCH"


class GrantLimitReachedError(Refusal):
    """The account holds as many unspent grants as it may."""

    reason = "GRANT_LIMIT_REACHED"


class InsufficientCreditsError(Refusal):
    """Less is available than is needed."""

    reason = "INSUFFICIENT_CREDITS"


class SourceNotAllowedError(Refusal):
    """The billing mode does not allow the source."""

    reason = "SOURCE_NOT_ALLOWED"


class NoUsableOwnKeyError(Refusal):
    """Only an own key may pay, and none serves."""

    reason = "NO_USABLE_OWN_KEY"


class FallbackNotAllowedError(Refusal):
    """A fallback to credits without consent."""

    reason = "FALLBACK_NOT_ALLOWED"


class FallbackCapReachedError(Refusal):
    """A fallback past the account's daily cap."""

    reason = "FALLBACK_CAP_REACHED"


class PriceRequiredError(Refusal):
    """A fee or a spending limit needs a price, and the model has none."""

    reason = "PRICE_REQUIRED"


class OwnKeyLimitReachedError(Refusal):
    """An own key's monthly spending limit is reached."""

    reason = "OWN_KEY_LIMIT_REACHED"


class ChargeNotRefundableError(Refusal):
    """An attempt that cannot be refunded."""

    reason = "CHARGE_NOT_REFUNDABLE"


class RefundExceedsChargeError(Refusal):
    """Less is left to refund than was asked for."""

    reason = "REFUND_EXCEEDS_CHARGE"


class CreditsNotPossibleError(Refusal):
    """Credits would pay, but nothing that they can buy serves the request."""

    reason = "CREDITS_NOT_POSSIBLE"


REFUSALS: dict[str, type[Refusal]] = {cls.reason: cls for cls in Refusal.__subclasses__()}
"""Every recorded refusal by the reason it is stored under."""
