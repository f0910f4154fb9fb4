"""For tests, ours and users': wait for a condition with a deadline, never sleep for a guessed time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
_PAUSE_S = 0.01


def wait_until(condition: Callable[[], T], timeout_s: float = 10.0, what: str = "the condition") -> T:
    """Ask `condition` until its answer is true, and give that answer; AssertionError after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not hold within {timeout_s:g} s")
        time.sleep(_PAUSE_S)
    return answer


async def wait_until_async(
    condition: Callable[[], Awaitable[T]], timeout_s: float = 10.0, what: str = "the condition"
) -> T:
    """The same for a condition that is awaited."""
    deadline = time.monotonic() + timeout_s
    while not (answer := await condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not hold within {timeout_s:g} s")
        await asyncio.sleep(_PAUSE_S)
    return answer
