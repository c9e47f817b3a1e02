# SPDX-License-Identifier: Apache-2.0
"""
Floors: the lowest version of a key-encryption key that rows may name.

Rules:
1. Who writes a wrapped key holds the floor's row shared until its transaction ends.
2. Who raises the floor holds it alone while counting what is below: a writer has either committed
   and is counted, or comes later and is refused.
"""

from __future__ import annotations

from collections.abc import Collection

from services.keyvault.domain.envelope import WrappedKey
from services.keyvault.errors import KekCause, KekUnavailableError
from services.shared.postgres import Connection

_HOLD = "SELECT lowest_version FROM kek_floors WHERE kek_name = $1 FOR SHARE"


async def check_floor(connection: Connection, data_keys: Collection[WrappedKey]) -> None:
    """
    Hold the floors in place until the transaction ends, and refuse what is below.

    Raises:
        KekUnavailableError: If a key's version was retired since it was wrapped.
    """
    for name in sorted({data_key.kek_name for data_key in data_keys}):
        row = await connection.fetchrow(_HOLD, name)
        lowest = min(item.kek_version for item in data_keys if item.kek_name == name)
        if row is None or lowest < row["lowest_version"]:
            raise KekUnavailableError(KekCause.RETIRED)
