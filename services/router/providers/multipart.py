# SPDX-License-Identifier: Apache-2.0
"""
Writes `multipart/form-data`, https://www.rfc-editor.org/rfc/rfc7578 .

Pure: the boundary is drawn from the parts themselves, so that none of them can hold it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["FormFile", "form_data"]

_BOUNDARY_CHARACTERS = 32
_LINE = b"\r\n"


@dataclass(frozen=True, slots=True)
class FormFile:
    """
    A file in a form.
    """

    name: str
    media_type: str
    data: bytes = field(repr=False)


def form_data(parts: Sequence[tuple[str, str | FormFile]]) -> tuple[str, bytes]:
    """
    Give the content type and the body of a form; names are our own, plain ASCII.
    """
    digest = hashlib.sha256()
    for _, value in parts:
        digest.update(value.encode() if isinstance(value, str) else value.data)
    boundary = digest.hexdigest()[:_BOUNDARY_CHARACTERS]
    lines: list[bytes] = []
    for name, value in parts:
        disposition = f'Content-Disposition: form-data; name="{name}"'
        lines.append(f"--{boundary}".encode())
        if isinstance(value, str):
            lines += [disposition.encode(), b"", value.encode()]
        else:
            lines += [
                f'{disposition}; filename="{value.name}"'.encode(),
                f"Content-Type: {value.media_type}".encode(),
                b"",
                value.data,
            ]
    lines += [f"--{boundary}--".encode(), b""]
    return f"multipart/form-data; boundary={boundary}", _LINE.join(lines)
