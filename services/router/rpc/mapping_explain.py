# SPDX-License-Identifier: Apache-2.0
"""
Reads the request that is to be explained, of whichever kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.router.rpc import mapping_media, mapping_text
from services.shared.errors import InvalidArgumentError

if TYPE_CHECKING:
    from ownkey.router.v1 import explain_pb2 as pb

    from services.router.domain.catalogue import Catalogue
    from services.router.domain.request import Request


def explained(message: pb.ExplainRequest, catalogue: Catalogue, made_id: str) -> Request:
    """
    Read the one request in a message.

    Args:
        message: What the caller sent.
        catalogue: Knows what the models make.
        made_id: Stands in where the request has no id.

    Raises:
        InvalidArgumentError: There is none, or more than one; or a field of it is wrong.
    """
    given = [kind for kind in ("text", "image", "speech") if message.HasField(kind)]
    if len(given) > 1:
        raise InvalidArgumentError.of(given[1], f"does not go with {given[0]}; explain one of them")
    if given == ["image"]:
        request_id = None if message.image.request_id else made_id
        return mapping_media.image_request(
            message.image, catalogue, request_id=request_id, explains=True
        )
    if given == ["speech"]:
        request_id = None if message.speech.request_id else made_id
        return mapping_media.speech_request(
            message.speech, catalogue, request_id=request_id, explains=True
        )
    request_id = None if message.text.request_id else made_id
    return mapping_text.text_request(message.text, request_id=request_id, explains=True)
