"""What both sides have in common: commands from standard input, and times on standard output."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

Action = Callable[[dict[str, Any]], Awaitable[None]]


async def serve(actions: dict[str, Action]) -> None:
    """Execute one command after another, and answer each with its seconds."""
    print(json.dumps({"ready": True}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        began = time.perf_counter()
        await actions[command["do"]](command)
        print(json.dumps({"seconds": time.perf_counter() - began}), flush=True)
