# SPDX-License-Identifier: Apache-2.0
"""
`python -m client.web.check 127.0.0.1:7170`: whether the settings page serves, for probes.

It asks from inside its pod, where alone the page listens, and imports little: it is run often.
"""

from __future__ import annotations

import http.client
import sys

TIMEOUT_SECONDS = 3.0
SERVING = 0
NOT_SERVING = 1
WRONG_USE = 2
_OK = 200


def check(address: str) -> int:
    """Return the exit code: 0 where the page serves, else 1 and a sentence to standard error."""
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as fault:
        sys.stderr.write(f"{address} does not answer: {type(fault).__name__}\n")
        return NOT_SERVING
    finally:
        connection.close()
    if status != _OK:
        sys.stderr.write(f"{address} says {status}\n")
        return NOT_SERVING
    return SERVING


def main(arguments: list[str]) -> int:
    """Run the command that was given."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m client.web.check <host:port>\n")
        return WRONG_USE
    return check(arguments[0])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
