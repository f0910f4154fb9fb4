"""Ids: short, sortable by age, safe in file names, Redis keys and shell words."""

from __future__ import annotations

import re
import secrets
import time
from typing import NewType

AgentName = NewType("AgentName", str)  #: a window that takes tasks: "code"
WindowName = NewType("WindowName", str)  #: any window: "code", "monitor"
WorkerId = NewType("WorkerId", str)  #: one life of an agent's process: "code.6fk2m9q1x0"
TaskId = NewType("TaskId", str)
WorkflowId = NewType("WorkflowId", str)

_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"  # no i, l, o, u: nothing to misread aloud
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,79}")


def _base32(number: int, width: int) -> str:
    out = ""
    for _ in range(width):
        number, digit = divmod(number, 32)
        out = _DIGITS[digit] + out
    return out


def new_id(prefix: str) -> str:
    """`prefix-` + 9 characters of time (ms, sorts by age) + 8 of chance."""
    return f"{prefix}-{_base32(time.time_ns() // 1_000_000, 9)}{_base32(secrets.randbits(40), 8)}"


def new_worker_id(agent: AgentName) -> WorkerId:
    """A name for one life of `agent`'s process."""
    return WorkerId(f"{agent}.{_base32(secrets.randbits(50), 10)}")


def is_name(text: str) -> bool:
    """Whether `text` may name an agent, window, task in a workflow, or workflow."""
    return _NAME.fullmatch(text) is not None


def is_id(text: str) -> bool:
    """Whether `text` has the form of a task or workflow id."""
    return _ID.fullmatch(text) is not None
