# SPDX-License-Identifier: Apache-2.0
"""
Why a connection to another service did not come about, in a sentence for whoever reads the log.

TLS tells a refused caller nothing, and gRPC passes on what its library says; what is known of its
words stands here. https://www.openssl.org/docs/man3.0/man3/X509_verify_cert_error_string.html
"""

from __future__ import annotations

_THEIRS = "the certificate of the service that was called"
_FAULTS = {
    "certificate has expired": f"{_THEIRS} has ended: issue it a new one into the same file",
    "certificate is not yet valid": f"{_THEIRS} is not valid yet: set the clocks right",
    "Hostname Verification Check failed": f"{_THEIRS} is for other names: issue one that has the "
    "name in this service's setting of its address",
    "CERTIFICATE_VERIFY_FAILED": f"{_THEIRS} is of no authority in TLS_CA_FILE: add its authority "
    "there, or issue it one of an authority that is there",
    "WRONG_VERSION_NUMBER": "the service that was called speaks plain text: set its TLS files",
    "Socket closed": "the other side broke the connection off: if it goes on, this service's "
    "certificate has ended or is of no authority that the other trusts, which its log tells",
}
"""What gRPC says, and what that means, with the remedy; the first that fits counts."""


def handshake_advice(details: str | None) -> dict[str, str]:
    """
    Return fields for a log line: the advice, or nothing where no handshake is known to have failed.

    Args:
        details: A failed call's details, of a status that no service made.
    """
    for words, advice in _FAULTS.items():
        if words in (details or ""):
            return {"advice": advice}
    return {}
