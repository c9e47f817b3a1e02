# SPDX-License-Identifier: Apache-2.0
"""
Addresses of providers whose hosts depend on the credential.

A base address holds `{host}`: `https://{host}` in earnest, and
`http://127.0.0.1:7190/azure/{host}` where a simulator stands in, which so sees the host that a
credential is bound to.
"""

from __future__ import annotations

from urllib.parse import urlsplit

__all__ = ["ANY_HOST", "HOST", "address", "https_host", "real_address"]

HOST = "{host}"
ANY_HOST = f"https://{HOST}"


def address(base_url: str, host: str) -> str:
    """
    Give the base address for a host, without a slash at its end.
    """
    return base_url.replace(HOST, host).rstrip("/")


def real_address(url: str, base_url: str) -> str:
    """
    Give the provider's own address of a URL that was made with `address`.
    """
    return "https://" + url.removeprefix(base_url.partition(HOST)[0])


def https_host(url: str) -> str:
    """
    Give the host of a plain HTTPS address; "" for any other address.

    Ports, user names, fragments, blanks and backslashes, with which two readers of one address
    could disagree about its host, are refused (https://www.rfc-editor.org/rfc/rfc3986#section-7.6).
    """
    if not url.isascii() or not url.isprintable() or any(mark in url for mark in " \\#@"):
        return ""
    try:
        parts = urlsplit(url)
        plain = parts.scheme == "https" and parts.port is None
    except ValueError:
        return ""
    host = parts.hostname or ""
    return host if plain and parts.netloc == host else ""
