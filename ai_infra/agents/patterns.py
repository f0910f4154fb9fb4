"""Patterns: searching an output for a regular expression that may never end.

Some patterns take longer than the age of the universe (`(a+)+$`), and Python's search cannot be interrupted.
So anything but plain words is searched in a process of its own, which has bounds on time and memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from typing import NamedTuple

SEARCH_S = 10.0  #: for one search
_PLAIN = re.compile(r"\^?[^\\.^$*+?{}\[\]|()]+\$?")  # no choice, no repetition: one pass over the text
_MEMORY_BYTES = 1 << 30
# Reads the pattern (its length is the argument), then the text; says where it was found. It ends by itself
# should we die meanwhile.
_CHILD = f"""
import re, resource, signal, sys
signal.alarm({round(SEARCH_S) + 5})
resource.setrlimit(resource.RLIMIT_AS, ({_MEMORY_BYTES}, {_MEMORY_BYTES}))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
data, length = sys.stdin.buffer.read(), int(sys.argv[1])
pattern = data[:length].decode("utf-8", "surrogatepass")
found = re.search(pattern, data[length:].decode("utf-8", "replace"), re.MULTILINE)
print(*(found.span() if found else ()))
"""


class Match(NamedTuple):
    """What a search found; `problem` says why it found no answer at all."""

    text: str | None
    problem: str = ""


async def search(pattern: str, output: bytes, ended: asyncio.Event) -> Match:
    """Look for `pattern`, line by line for `^` and `$`; gives up after SEARCH_S, at once when `ended`."""
    if not _PLAIN.fullmatch(pattern):
        return await _search_apart(pattern, output, ended)
    found = re.search(pattern, _text(output), re.MULTILINE)
    return Match(found[0] if found else None)


async def _search_apart(pattern: str, output: bytes, ended: asyncio.Event) -> Match:
    packed = pattern.encode("utf-8", "surrogatepass")
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-W", "ignore", "-c", _CHILD, str(len(packed)), env={},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    answer = asyncio.create_task(child.communicate(packed + output), name="pattern")
    stopped = asyncio.create_task(ended.wait(), name="ended")
    try:
        await asyncio.wait({answer, stopped}, timeout=SEARCH_S, return_when=asyncio.FIRST_COMPLETED)
        in_time = answer.done()
    finally:
        stopped.cancel()
        with contextlib.suppress(ProcessLookupError):
            child.kill()
    said, complaint = await answer
    if not in_time:
        return Match(None, "stopped" if ended.is_set() else f"pattern took too long ({SEARCH_S:g} s)")
    if child.returncode != 0:
        return Match(None, f"pattern could not be searched: {_last_line(complaint) or child.returncode}")
    return Match(_text(output)[slice(*map(int, said.split()))] if said.strip() else None)


def _text(output: bytes) -> str:
    return output.decode("utf-8", errors="replace")


def _last_line(complaint: bytes) -> str:
    return (_text(complaint).strip().splitlines() or [""])[-1][:200]
