# SPDX-License-Identifier: Apache-2.0
"""
Images in requests: inline as base64, or by an address that the provider fetches itself.
"""

from __future__ import annotations

import base64
import binascii

from ownkey.router.v1 import text_pb2 as pb

from services.shared.errors import InvalidArgumentError

_INLINE = "data:"
_ENCODING = ";base64"


def image_of_url(url: str, path: str) -> pb.Image:
    """
    Read an image's address, `https:` or `data:` (https://www.rfc-editor.org/rfc/rfc2397).

    Raises:
        InvalidArgumentError: Naming the field.
    """
    if not url.startswith(_INLINE):
        return pb.Image(url=url)
    head, _, data = url.removeprefix(_INLINE).partition(",")
    if not head.endswith(_ENCODING):
        raise InvalidArgumentError.of(path, "must be https://… or data:image/…;base64,…")
    return image_of_base64(data, head.removesuffix(_ENCODING), path)


def image_of_base64(data: str, media_type: str, path: str) -> pb.Image:
    """
    Read an inline image.

    Raises:
        InvalidArgumentError: Naming the field.
    """
    try:
        decoded = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidArgumentError.of(path, "is not base64") from None
    return pb.Image(data=decoded, media_type=media_type)
