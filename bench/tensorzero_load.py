# SPDX-License-Identifier: Apache-2.0
"""
Calls TensorZero's embedded gateway and prints the requests a second.

Run by TensorZero's own environment, which holds nothing of this project:
`python tensorzero_load.py <config file> <prompt> <callers> <seconds>`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

WARM_UP_SECONDS = 1.0


async def main(config: str, prompt: str, callers: int, seconds: float) -> float:
    """Return the requests a second."""
    from tensorzero import AsyncTensorZeroGateway  # type: ignore[import-not-found]  # noqa: PLC0415

    gateway: Any = await AsyncTensorZeroGateway.build_embedded(config_file=config)
    message = {"messages": [{"role": "user", "content": prompt}]}
    counting = time.monotonic() + WARM_UP_SECONDS
    until = counting + seconds
    ended = 0

    async def call() -> None:
        nonlocal ended
        while time.monotonic() < until:
            await gateway.inference(model_name="bench", input=message)
            ended += counting < time.monotonic() < until

    await asyncio.gather(*(call() for _ in range(callers)))
    return ended / seconds


if __name__ == "__main__":
    rate = asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
    print(rate)
