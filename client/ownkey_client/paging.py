# SPDX-License-Identifier: Apache-2.0
"""Lists that come in pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

PAGE_SIZE_MAX = 1_000
PAGES_MAX = 1_000
"""A million items: a list longer than that is read by time, or exported."""

Answer = TypeVar("Answer", bound=Any)


def read_pages(read: Callable[[Any], Answer], request: Any, items: str) -> Answer:
    """
    Read a list to its end.

    Args:
        read: Makes the call.
        request: Its message; `page_size` and `page_token` are set here.
        items: Name of the answer's list.

    Returns:
        One answer with all items. Where PAGES_MAX pages were not all, it has a next page's token.
    """
    request.page_size = PAGE_SIZE_MAX
    whole = read(request)
    for _ in range(PAGES_MAX - 1):
        if not whole.next_page_token:
            break
        request.page_token = whole.next_page_token
        page = read(request)
        getattr(whole, items).extend(getattr(page, items))
        whole.next_page_token = page.next_page_token
    return whole
