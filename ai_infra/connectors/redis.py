"""Redis: the connection, the keys and the function library. What an error reply means is in replies.py.

Keys, all under one prefix (default `ai:`). A single server is assumed: functions build key names from ids,
which a Redis cluster would refuse. Only server time is used, in ms.

    key               type    content                                                        ends
    t:TASK            hash    s state, a agent, p priority, q sequence, n open upstreams,    with retention
                              r needs rule, nd needs, at attempt, mx max attempts, f fence,
                              ex runs that do not count, ds those that ended by a death,
                              w worker, wf workflow, nm name, dl retry delay ms,
                              ts/rd/st/fi created/ready/started/finished, er error,
                              cb upstream that cancelled it, cx cancel asked: reason,
                              wt somebody waits, df fence of the last finish,
                              ck/rk token of the last cancel/retry call, sb its submit,
                              ho/hp/hf agent it goes to when its run has stopped, its
                              spec then, the fence of that run,
                              k it has dependants, sc score in the queue, md longest retry delay ms,
                              x it has some of: nb not before, dd deadline, dx it has passed,
                              ky unique key, lk locks, lw what keeps it back,
                              au upstream that did not succeed and is archived,
                              im held by an import: the state it had,
                              un its undo task's spec, ua marks for undo.lua,
                              cs which of those that may be undone it was to end
    p:TASK            string  the spec, as JSON                                              with the task
    r:TASK            string  the last result, as JSON                                       with the task
    kids:TASK         list    tasks that need it                                             with the task
    all               zset    every task by sequence
    ready:AGENT       zset    what can run, by `sc`: (10 - priority) * step + sequence: priority, then age
    aside:AGENT       zset    READY tasks that a lock or a paused workflow keeps back, by the same
    wants:LOCK AGENT  zset    those of them that wait for this lock
    wanted:LOCK       set     agents that have such tasks
    lock:LOCK         string  the task that holds it                                         while it runs
    gate:AGENT        hash    pz why it is paused, iv least ms between tasks, tat when the next may begin
    paused            set     workflows that are paused
    reopen            zset    agents by the instant their gate opens
    key:KEY           string  the open task that was submitted with this unique key          with its end
    deadlines         zset    open tasks by the instant they must have ended
    schema            string  the version that the data was last brought up to
    leases            zset    workers by the instant their lease ends; with it all they hold is given back
    delay             zset    retries and tasks for later by the instant they are due
    held blocked      zset    tasks by sequence: submit not complete; waiting for upstreams
    done dead gone    zset    COMPLETED, FAILED, CANCELLED by the instant they ended
    own:WORKER        set     tasks it holds
    idle:AGENT        zset    sleeping workers, by the instant they went to sleep
    inbox:WORKER      list    notices, JSON; the worker blocks on it                         with the worker
    workers           hash    WORKER: "agent lease_ms"
    seen              zset    workers by last sign of life
    agents            set     every kind of worker that ever had a task or a worker
    n:AGENT wn:FLOW   hash    how many tasks are in each state but READY and held
    m:AGENT:MINUTE    hash    done failed retried wait_ms run_ms                             after an hour
    minutes:AGENT     zset    the minutes that have such a hash                              after an hour
    wf:FLOW wt:FLOW   hash, list   header and ts, am it is atomic, pz why it is paused; ud stopping or
                              made: it is undone, uw why, us how its steps ended, uk token of
                              the call; its tasks in order of submission
    wa:FLOW           string  how many of them are archived already; they are counted still  with the last
    undo:FLOW         list    steps whose undo tasks are not made yet                        when they are
    steps             string  how many steps that may be undone have ended
    wfs               zset    workflows by the instant they were submitted
    subs sub:SUB      zset, list   submits under way, by deadline; their tasks
    commits           set     submits that are being released
    waiters:TASK      set     tokens of those who wait for its end                           with the wait
    box:TOKEN         list    ids of ended tasks; the waiter blocks on it                    after 2 min
    timer             string  the instant the ticker has promised to look again
    timer:inbox       list    the ticker blocks on it
    beats beat        zset, hash   process name: instant and payload of its last heartbeat
    spared            string  the newest beat when the ticker last let ended leases go on
    votes:NAME        hash    who finds that process silent, and since when                  with staleness
    events            stream  what each call moved, trimmed; a field a move, see `event`
    owner             string  the installation whose tasks these are                         2 min after it
    mail:* msg:MESSAGE        messages: see the head of engine/messages.lua
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import TracebackType
from typing import Self

from ai_infra.connectors.replies import LibraryMissing, checked
from ai_infra.connectors.wire import Address, Reply, Wire, Word, connect, parse_address
from ai_infra.core.errors import (
    Conflict,
    ConnectorError,
    ConnectorRefused,
    ConnectorUnavailable,
    SystemProblem,
)

DEFAULT_PREFIX = "ai:"
LIBRARY = "ai_infra"
#: goes up when a function's arguments, answers or keys change; equals VERSION in engine/tasks.lua
LIBRARY_VERSION = 3
_LIBRARY_FILES = (
    "tasks",
    "gates",
    "queue",
    "handoff",
    "ends",
    "submit",
    "worker",
    "timers",
    "cancel",
    "undo",
    "look",
    "messages",
    "archive",
    "import",
    "upgrade",
    "functions",
)  # each uses what stands before it

OLDEST_SERVER = (7, 0)  #: the first with function libraries

_PATIENCE_S = 5.0  #: how long one call goes on trying while the server is away
ANSWER_S = 30.0  #: the longest that an answer may take before the connection counts as dead
_PAUSES_S = (0.0, 0.02, 0.05, 0.1, 0.2)  #: between tries; the last one repeats


@dataclass(frozen=True, kw_only=True)
class ServerFacts:
    """What `open` learned of the server."""

    version: str
    durability: str  #: "always" (a confirmed write is on disk), "everysec", "no", "off" or "unknown"


class Connection:
    """A Redis server as this program uses it: functions, commands, blocking pops; it reconnects by itself.

    A call that meets a dead connection is sent again for up to `patience_s`; every function of the library
    may be repeated safely. Then ConnectorUnavailable. Blocking pops have connections of their own.
    """

    def __init__(self, address: Address, prefix: str, owner: str, wait_s: float) -> None:
        self.address = address
        self.prefix = prefix
        self.owner = owner
        self.facts = ServerFacts(version="", durability="unknown")
        self.answer_s = min(ANSWER_S, wait_s)  #: how long one answer may take
        self._patience_s = wait_s
        self._trouble: ConnectorUnavailable | None = None  #: the last one met
        self._wire: Wire | None = None
        self._connecting = asyncio.Lock()
        self._closed = False
        self._spare: list[Wire] = []
        self._taken: set[Wire] = set()

    @classmethod
    async def open(
        cls,
        address: str,
        *,
        prefix: str = DEFAULT_PREFIX,
        owner: str = "",
        wait_s: float = 10.0,
        patience_s: float = _PATIENCE_S,
    ) -> Self:
        """Connect, check the server and bring its function library up to date.

        All of this takes at most `wait_s`, and so does each answer later on. `owner` names the installation
        (its home and host); without one nobody is kept out. Raises ConnectorUnavailable (no answer in time),
        SystemProblem (server too old, or set to evict keys) and Conflict (its library is of a newer ai-infra,
        or another owner was heard of under this prefix in the last two minutes).
        """
        self = cls(parse_address(address), prefix, owner, wait_s)
        try:
            async with asyncio.timeout(wait_s):
                await self._introduce()
        except TimeoutError:
            self.close()
            raise self._trouble or self._silent(wait_s) from None
        except BaseException:
            self.close()
            raise
        self._patience_s = patience_s
        return self

    async def _introduce(self) -> None:
        self.facts = await self._check_server()
        await self._ensure_library()
        if self.owner:
            with contextlib.suppress(ConnectorRefused):  # it can be read; nothing can be taken from its owner
                await self.call("own", self.owner)

    @property
    def durability(self) -> str:
        """How safe a confirmed write is; see ServerFacts."""
        return self.facts.durability

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop every connection; what waits for an answer gets ConnectorUnavailable. May be called twice."""
        self._closed = True
        for wire in [self._wire, *self._spare, *self._taken]:
            if wire is not None:
                wire.close()
        self._spare.clear()
        self._taken.clear()

    async def call(self, function: str, *words: Word) -> Reply:
        """Call `ai_<function>` of the library."""
        try:
            return await self.command("FCALL", f"{LIBRARY[:3]}{function}", 1, self.prefix, *words)
        except LibraryMissing:
            await self._ensure_library()
            return await self.command("FCALL", f"{LIBRARY[:3]}{function}", 1, self.prefix, *words)

    async def command(self, *words: Word) -> Reply:
        """Send one command and give its reply; an error reply is raised, translated."""
        patience: Patience | None = None
        while True:
            try:
                wire = self._wire
                if wire is None or not wire.is_open:
                    wire = await self._reconnect()
                return checked(await wire.send(words))
            except ConnectorUnavailable as exc:
                self._trouble = self._named(exc)
                patience = patience or Patience(self._patience_s)
                if self._closed or not await patience.pause():
                    raise self._trouble from exc
            except TimeoutError as exc:  # the wire has closed itself
                raise self._silent(self.answer_s) from exc

    async def block(self, *words: Word, timeout_s: float) -> Reply:
        """Send a blocking read that the server ends after `timeout_s`; None then. Cancelling it is safe.

        Not repeated: raises ConnectorUnavailable when the connection is lost.
        """
        wire = await self.take_wire()
        try:
            async with asyncio.timeout(timeout_s + self.answer_s):
                reply = checked(await wire.send(words))
        except TimeoutError as exc:
            self.drop_wire(wire)
            raise self._silent(timeout_s + self.answer_s) from exc
        except BaseException:
            self.drop_wire(wire)
            raise
        self.return_wire(wire)
        return reply

    async def take_wire(self) -> Wire:
        """A connection for a blocking command; end with `return_wire` or `drop_wire`."""
        wire = self._spare.pop() if self._spare else await self._login()
        if not wire.is_open:
            wire = await self._login()
        self._taken.add(wire)
        return wire

    def return_wire(self, wire: Wire) -> None:
        """Take back a connection on which nothing is awaited."""
        self._taken.discard(wire)
        if self._closed:
            wire.close()
        elif wire.is_open:
            self._spare.append(wire)

    def drop_wire(self, wire: Wire) -> None:
        """Close a connection on which an answer may still come."""
        self._taken.discard(wire)
        wire.close()

    def key(self, name: str) -> str:
        """`name` under the prefix."""
        return self.prefix + name

    def _silent(self, wait_s: float) -> ConnectorUnavailable:
        return ConnectorUnavailable(f"Redis at {self.address} gave no answer in {wait_s:g} s")

    def _named(self, exc: ConnectorUnavailable) -> ConnectorUnavailable:
        text = str(exc)
        return exc if str(self.address) in text else ConnectorUnavailable(f"Redis at {self.address}: {text}")

    async def _reconnect(self) -> Wire:
        async with self._connecting:
            if self._wire is None or not self._wire.is_open:
                self._wire = await self._login()
                self._wire.watch(self.answer_s)
                self._trouble = None
            return self._wire

    async def _login(self) -> Wire:
        if self._closed:
            raise ConnectorUnavailable("this connection was closed")
        wire = await connect(self.address)
        try:
            async with asyncio.timeout(self.answer_s):
                await self._greet(wire)
        except TimeoutError as exc:
            wire.close()
            raise self._silent(self.answer_s) from exc
        except BaseException:
            wire.close()
            raise
        return wire

    async def _greet(self, wire: Wire) -> None:
        address = self.address
        if address.password is not None:
            user = (address.username,) if address.username else ()
            checked(await wire.send(("AUTH", *user, address.password)))
        if address.db:
            checked(await wire.send(("SELECT", address.db)))

    async def _check_server(self) -> ServerFacts:
        facts = _parse_info(await self.command("INFO"))
        version = facts.get("redis_version", "0")
        if tuple(int(p) for p in version.split(".")[:2] if p.isdigit()) < OLDEST_SERVER:
            need = ".".join(map(str, OLDEST_SERVER))
            raise SystemProblem(
                f"Redis at {self.address} is version {version}; ai-infra needs {need} or newer"
            )
        if facts.get("maxmemory", "0") != "0" and facts.get("maxmemory_policy") != "noeviction":
            raise SystemProblem(
                f"Redis at {self.address} would drop tasks when its memory is full "
                f"(maxmemory-policy {facts.get('maxmemory_policy')}); set maxmemory-policy noeviction"
            )
        return ServerFacts(version=version, durability=await self._durability(facts))

    async def _durability(self, facts: Mapping[str, str]) -> str:
        if facts.get("aof_enabled") == "0":
            return "off"
        try:
            reply = await self.command("CONFIG", "GET", "appendfsync")
        except ConnectorError:  # hosted servers hide CONFIG
            return "unknown"
        return reply[1] if reply else "unknown"

    async def _ensure_library(self) -> None:
        try:
            version, digest, *schema = await self.command("FCALL", "ai_version", 1, self.prefix)
        except LibraryMissing:
            version, digest, schema = 0, "", []
        if version > LIBRARY_VERSION:
            raise Conflict(
                f"a newer ai-infra uses this Redis (its library is version {version}, this one brings "
                f"{LIBRARY_VERSION}); update this installation, or give it a Redis of its own"
            )
        code, own_digest = library()
        if (version, digest) != (LIBRARY_VERSION, own_digest):
            await self.command("FUNCTION", "LOAD", "REPLACE", code)
        if schema != [LIBRARY_VERSION]:
            await self.command("FCALL", "ai_upgrade", 1, self.prefix)


class Patience:
    """How long to go on trying: short pauses at first, then longer ones, until the time is over."""

    def __init__(self, patience_s: float) -> None:
        self._deadline = asyncio.get_running_loop().time() + patience_s
        self._tries = 0

    async def pause(self) -> bool:
        """Wait a little; False when the time is over."""
        left = self._deadline - asyncio.get_running_loop().time()
        pause_s = _PAUSES_S[min(self._tries, len(_PAUSES_S) - 1)]
        self._tries += 1
        if left <= 0:
            return False
        await asyncio.sleep(min(pause_s, left))
        return True


@cache
def library() -> tuple[str, str]:
    """The text of the function library as it is loaded, and its digest."""
    folder = resources.files("ai_infra.connectors") / "engine"
    text = "\n".join((folder / f"{name}.lua").read_text(encoding="utf-8") for name in _LIBRARY_FILES)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return text.replace("@DIGEST@", digest), digest


def _parse_info(text: str) -> dict[str, str]:
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line and line[0] != "#")
