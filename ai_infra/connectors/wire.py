"""One connection to Redis: commands out, replies in, in order.

Made for the engine's hot path: an asyncio protocol over hiredis, without a pool, a lock or a task switch
between a reply and its waiter; commands sent at once by several callers share the round trip. A general
client costs more per call and three times as much to import, and a dozen processes start at once.
Errors come out as ai_infra's own; nothing is retried here.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis

from ai_infra.core.errors import ConfigError, ConnectorUnavailable

Reply = Any  #: str, int, None, or a list of them; errors inside are hiredis.ReplyError
Word = str | int | float | bytes

_CONNECT_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a Redis server listens, and how to log in."""

    path: str | None = None  #: of its unix socket
    host: str = "localhost"
    port: int = 6379
    tls: bool = False
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """For messages: without the password."""
        if self.path is not None:
            return f"unix socket {self.path}"
        return f"{'rediss' if self.tls else 'redis'}://{self.host}:{self.port}/{self.db}"


def parse_address(text: str) -> Address:
    """The address in a socket path or a unix:, redis: or rediss: URL. Raises ConfigError."""
    if text.startswith("/"):
        return Address(path=text)
    try:
        return _parse_url(text)
    except ValueError as exc:
        raise ConfigError(f"the Redis address is not understood ({exc}); {_FORMS}") from None


_FORMS = "use /path/to.sock, redis://[user:password@]host:port/db, or rediss://… for TLS"


def _parse_url(text: str) -> Address:
    url = urlsplit(text)
    username = unquote(url.username) if url.username else None
    password = unquote(url.password) if url.password else None
    if url.scheme == "unix":
        db = int(parse_qs(url.query).get("db", ["0"])[0])
        return Address(path=unquote(url.path), db=db, username=username, password=password)
    if url.scheme not in ("redis", "rediss"):
        raise ValueError(f"unknown scheme {url.scheme[:20]!r}" if url.scheme else "no scheme")
    return Address(
        host=url.hostname or "localhost",
        port=url.port or 6379,
        tls=url.scheme == "rediss",
        db=int(url.path.strip("/") or 0),
        username=username,
        password=password,
    )


class Wire(asyncio.Protocol):
    """One open connection. Owned by the Connection that opened it."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader(encoding="utf-8", errors="replace")
        self._waiting: deque[tuple[asyncio.Future[Reply], float]] = deque()  #: and when they were sent
        self._answer_s: float | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def watch(self, answer_s: float) -> None:
        """From now on, an answer that takes longer breaks the connection: all that wait get TimeoutError.

        One timer for all of them, since a timer of its own is a tenth of what a command costs.
        """
        self._answer_s = answer_s

    def send(self, words: tuple[Word, ...]) -> asyncio.Future[Reply]:
        """Send one command; the future holds its reply, an error reply included, or ConnectorUnavailable."""
        future: asyncio.Future[Reply] = self._loop.create_future()
        if self._transport is None or self._transport.is_closing():
            future.set_exception(_lost())
            return future
        self._waiting.append((future, self._loop.time()))
        if self._watchdog is None and self._answer_s is not None:
            self._watchdog = self._loop.call_later(self._answer_s, self._look)
        self._transport.write(hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub says a 1-tuple
        return future

    def close(self) -> None:
        """Close at once; what was not answered fails. May be called twice."""
        if self._transport is not None:
            self._transport.abort()
        self._fail()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            self._deliver()
        except (hiredis.ProtocolError, IndexError):  # not Redis, or out of step: no reply can be trusted
            self.close()

    def _deliver(self) -> None:
        while (reply := self._reader.gets()) is not False:
            future, _ = self._waiting.popleft()
            if not future.done():  # its caller may have gone away
                future.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail()

    def _look(self) -> None:
        """The time of the oldest answer is over, or of one that has come since."""
        self._watchdog = None
        if not self._waiting or self._answer_s is None:
            return
        due = self._waiting[0][1] + self._answer_s
        if due > self._loop.time():
            self._watchdog = self._loop.call_at(due, self._look)
            return
        waiting, self._waiting = self._waiting, deque()
        for future, _ in waiting:
            if not future.done():
                future.set_exception(TimeoutError())
        self.close()

    def _fail(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        waiting, self._waiting = self._waiting, deque()
        for future, _ in waiting:
            if not future.done():
                future.set_exception(_lost())


def _lost() -> ConnectorUnavailable:
    return ConnectorUnavailable("the connection to Redis was lost")


async def connect(address: Address) -> Wire:
    """Open a connection, without logging in. Raises ConnectorUnavailable."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_CONNECT_S):
            if address.path is not None:
                return (await loop.create_unix_connection(Wire, address.path))[1]
            context = ssl.create_default_context() if address.tls else None
            return (await loop.create_connection(Wire, address.host, address.port, ssl=context))[1]
    except (OSError, TimeoutError) as exc:
        why = "no answer" if isinstance(exc, TimeoutError) else (exc.strerror or str(exc))
        raise ConnectorUnavailable(f"Redis at {address} cannot be reached: {why}") from exc
