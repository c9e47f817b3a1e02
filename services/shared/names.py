# SPDX-License-Identifier: Apache-2.0
"""Resource names such as `accounts/{account}/keys/{key}`: one parser and formatter per pattern."""

from __future__ import annotations

import re

from services.shared.errors import InvalidArgumentError

ID_PATTERN = r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


class ResourceName:
    """
    A pattern of resource names.

    Args:
        pattern: Collections and placeholders in turn, for example `accounts/{account}`.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self._regex = re.compile(_PLACEHOLDER.sub(rf"(?P<\1>{ID_PATTERN})", pattern))

    def parse(self, text: str, field: str) -> dict[str, str]:
        """
        Take a name apart.

        Args:
            text: What the caller sent.
            field: Path of the request field it came from.

        Returns:
            The id for each placeholder.

        Raises:
            InvalidArgumentError: If the name does not follow the pattern.
        """
        match = self._regex.fullmatch(text)
        if match is None:
            raise InvalidArgumentError.of(
                field,
                f"must look like {self.pattern}, each id 1 to 63 of a-z, 0-9 and '-', beginning "
                "with a letter and not ending with '-'",
            )
        return match.groupdict()

    def format(self, **ids: str) -> str:
        """Put a name together from ids that are known to be well formed."""
        return self.pattern.format(**ids)


ACCOUNT = ResourceName("accounts/{account}")
