"""Replies: which ai_infra error an error reply of Redis is.

The first word of an error reply is its code; the function library adds two of its own, CONFLICT and NOTFOUND.
"""

from __future__ import annotations

import hiredis

from ai_infra.connectors.wire import Reply
from ai_infra.core.errors import (
    AiInfraError,
    Conflict,
    ConnectorError,
    ConnectorRefused,
    ConnectorUnavailable,
    NotFound,
)


class LibraryMissing(ConnectorError):
    """The server does not know the function; it was flushed, or is new."""


def checked(reply: Reply) -> Reply:
    """`reply`, unless it is an error: that is raised, translated."""
    if isinstance(reply, hiredis.ReplyError):
        raise translate(str(reply))
    return reply


_TRY_AGAIN = "Redis is not ready"
# First word of an error reply: (error, what to say before the server's own words)
_ERRORS: dict[str, tuple[type[AiInfraError], str]] = {
    "CONFLICT": (Conflict, ""),
    "NOTFOUND": (NotFound, ""),
    "LOADING": (ConnectorUnavailable, _TRY_AGAIN),
    "BUSY": (ConnectorUnavailable, _TRY_AGAIN),
    "TRYAGAIN": (ConnectorUnavailable, _TRY_AGAIN),
    "MASTERDOWN": (ConnectorUnavailable, _TRY_AGAIN),
    "CLUSTERDOWN": (ConnectorUnavailable, _TRY_AGAIN),
    "UNBLOCKED": (ConnectorUnavailable, "Redis ended a wait"),  # its role changes, or somebody asked it to
    "MISCONF": (ConnectorRefused, "Redis cannot write to its disk, so nothing new is accepted (disk full?)"),
    "OOM": (ConnectorRefused, "Redis has used all the memory it may (maxmemory), so nothing new is accepted"),
    "READONLY": (ConnectorRefused, "this Redis is a read-only replica; name its master instead"),
    "NOREPLICAS": (ConnectorRefused, "Redis refuses writes while its replicas are away"),
    "NOAUTH": (ConnectorError, "Redis wants a password; put it into the address"),
    "WRONGPASS": (ConnectorError, "Redis refuses the user name or password"),
    "NOPERM": (ConnectorError, "this user of Redis lacks a right that ai-infra needs"),
    "MOVED": (ConnectorError, "this Redis is part of a cluster, which is not supported"),
    "ASK": (ConnectorError, "this Redis is part of a cluster, which is not supported"),
    "CROSSSLOT": (ConnectorError, "this Redis is part of a cluster, which is not supported"),
    "UNKILLABLE": (ConnectorError, ""),
}


def translate(text: str) -> AiInfraError:
    """The ai_infra error for an error reply of the server."""
    code, _, rest = text.partition(" ")
    if "Function not found" in text:
        return LibraryMissing("the function library is not loaded")
    if "max number of clients" in text:
        return ConnectorUnavailable(f"{_TRY_AGAIN}: {text}")
    kind, lead = _ERRORS.get(code, (ConnectorError, "Redis refused"))
    if kind in (Conflict, NotFound):
        return kind(rest)
    return kind(f"{lead}: {text}" if lead else text)
