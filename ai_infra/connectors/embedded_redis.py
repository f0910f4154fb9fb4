"""The embedded Redis: a private server in the window `redis`, for installations that name none.

No TCP port: only a unix socket of mode 0700 in a folder of mode 0700. Every write is on disk before it is
acknowledged (append-only file, fsync always). The window's process is the parent: it shows what the
server says, pings it, and ends with it, so that the supervisor restarts both as one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from ai_infra.connectors.wire import Address, Reply, Wire, connect
from ai_infra.core.durable import FileLock, read_json, system_problem, write_text
from ai_infra.core.errors import Conflict, ConnectorUnavailable, Failed, SystemProblem
from ai_infra.core.events import Level
from ai_infra.core.home import Home

OLDEST = 7
VERSION_WAIT_S = 10.0
PING_EVERY_S = 5.0
PING_WAIT_S = 5.0
HUNG_AFTER_S = 15.0
POLL_S = 0.01
ROOM_EVERY_S = 1.0
DATA_WAIT_S = 10.0  #: a server that was asked to end may write for a while
KILL_WAIT_S = 5.0  #: the kernel may take so long to end a killed process
LAST_WORDS_S = 1.0
_PR_SET_PDEATHSIG = 1

Ping = Callable[[], Awaitable[bool]]


class EmbeddedRedis:
    """One run of the server."""

    def __init__(self, home: Home, say: Callable[[str, Level], None]) -> None:
        self._home, self._say = home, say
        self._process: asyncio.subprocess.Process | None = None
        self._saying: asyncio.Task[None] | None = None
        self._last_words = ""
        self._data = FileLock(home.redis / "server.lock")
        self._wire: Wire | None = None  #: of the pings
        self._socket: tuple[int, int] | None = None  #: which file it listens on

    async def start(self) -> None:
        """Start the server; it answers when this returns, all its data read.

        Raises SystemProblem, Conflict, Failed. May be cancelled; a start that did not succeed leaves nothing.
        """
        program = find_server()
        try:
            await self._take_data()
            await self._wait_for_room()
            await self._launch(program)
        except BaseException:
            await self.stop(0)
            raise

    async def _launch(self, program: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._home.redis_socket.unlink()  # left by a server that was killed
        config = self._home.run / "redis.conf"
        write_text(config, server_config(self._home))
        try:
            self._process = await asyncio.create_subprocess_exec(
                program, str(config), cwd=self._home.redis, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, env={"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8"},
                start_new_session=True, preexec_fn=_die_with_parent, pass_fds=[self._data.fileno()],
            )  # fmt: skip
        except OSError as exc:
            raise system_problem(Path(program), exc) from exc
        self._saying = asyncio.create_task(self._pass_on(self._process), name="redis-output")
        while await self._ping() != "PONG":
            if self._process.returncode is not None:
                await self._saying
                raise Failed(f"redis-server did not start: {self._last_words or 'it said nothing'}")
            await asyncio.sleep(POLL_S)
        self._socket = _file_of(self._home.redis_socket)

    @property
    def pid(self) -> int:
        """The server's own pid."""
        assert self._process is not None, "not started"
        return self._process.pid

    async def watch(self, ping: Ping | None = None) -> None:
        """Return never: raises Failed when the server ended, lost its socket, or was killed because it hung.

        It hangs when `ping` (by default one on a connection of its own) had no answer for HUNG_AFTER_S.
        """
        assert self._process is not None, "not started"
        ended = asyncio.create_task(self._process.wait(), name="redis-ended")
        answered_s, socket = time.monotonic(), self._socket
        try:
            while True:
                done, _ = await asyncio.wait([ended], timeout=PING_EVERY_S)
                if done:
                    raise Failed(f"redis-server ended ({_how(ended.result())}): {self._last_words}")
                if not self._home.redis_socket.exists():  # nobody can come to us any more
                    raise Failed(f"{self._home.redis_socket} was removed")
                if _file_of(self._home.redis_socket) != socket:
                    raise Failed(f"{self._home.redis_socket} was replaced by another file")
                if await _in_time((ping or self._is_alive)()):
                    answered_s = time.monotonic()
                elif time.monotonic() - answered_s >= HUNG_AFTER_S:
                    self._process.kill()
                    raise Failed(f"redis-server gave no answer for {HUNG_AFTER_S:g} s and was killed")
        finally:
            ended.cancel()

    async def stop(self, wait_s: float) -> None:
        """Ask it to end, and kill it after `wait_s`. What was acknowledged is on disk either way."""
        try:
            if self._process is not None and self._process.returncode is None:
                await _end(self._process, wait_s)
            if self._saying is not None:  # a child of the server may have its output still
                await asyncio.wait([self._saying], timeout=LAST_WORDS_S)
                self._saying.cancel()
        finally:
            if self._wire is not None:
                self._wire.close()
            self._data.release()

    async def _is_alive(self) -> bool:
        return await self._ping() is not None  # one that is busy refuses, and lives

    async def _ping(self) -> Reply:
        """What the server says to a ping; None: nothing."""
        try:
            if self._wire is None or not self._wire.is_open:
                self._wire = await connect(Address(path=str(self._home.redis_socket)))
            return await self._wire.send(("PING",))
        except ConnectorUnavailable:
            return None

    async def _take_data(self) -> None:
        """Own the data folder, waiting for a server that ends.

        The server inherits the lock: one that outlived its parent (the kernel told it to end) still has it,
        so two servers never append to one file. One that does not end by itself (it hangs, or was stopped)
        is killed; it has nothing in memory that it has acknowledged and that is not on disk.
        """
        if not await self._data_free(DATA_WAIT_S):
            self._kill_orphans()
            if not await self._data_free(KILL_WAIT_S):
                raise Conflict(
                    f"{self._home.redis}: another redis-server still uses this folder; "
                    f"`fuser {self._data.path}` names it"
                )
        self._data.write({"window": os.getpid()})

    async def _data_free(self, wait_s: float) -> bool:
        """Whether the data became ours within this time."""
        deadline = time.monotonic() + wait_s
        while not self._data.try_acquire():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True

    def _kill_orphans(self) -> None:
        """Kill who has the lock, unless the window's process that took it lives: that has it open, too."""
        window = (read_json(self._data.path) or {}).get("window")
        holders = _pids_with(self._data.path)
        if window in holders:
            return
        for pid in holders:
            self._say(f"the server of the life before (pid {pid}) does not end and is killed", "warning")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def _wait_for_room(self) -> None:
        """With fsync always the server ends when it cannot write; it is not started until it can."""
        if self._home.is_full():
            self._say(
                f"the disk of {self._home.root} is full: waiting for room; nothing that was kept is lost",
                "error",
            )
        while self._home.is_full():  # noqa: ASYNC110 the disk tells nobody when it has room
            await asyncio.sleep(ROOM_EVERY_S)

    async def _pass_on(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            level, words = plain_words(line.decode(errors="replace"))
            if words:
                self._last_words = words
                self._say(words, level)


def _pids_with(path: Path) -> list[int]:
    """Who has this file open, among the processes that we may look at."""
    found, place = [], os.path.realpath(path)
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):
            if any(os.readlink(link) == place for link in folder.iterdir()):
                found.append(int(folder.parent.name))
    return found


def find_server() -> str:
    """The path of a redis-server of version OLDEST or later. Raises SystemProblem."""
    program = shutil.which("redis-server")
    if program is None:
        raise SystemProblem(
            "redis-server is not installed; `apt-get install redis-server` adds it, "
            "or set AI_INFRA_REDIS_URL to a server"
        )
    version = server_version(program)
    if version < OLDEST:
        raise SystemProblem(f"{program} is version {version}; ai-infra needs Redis {OLDEST} or later")
    return program


def server_version(program: str) -> int:
    """The major version that a redis-server says of itself."""
    try:
        told = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=VERSION_WAIT_S, check=False
        ).stdout
    except OSError as exc:
        raise system_problem(Path(program), exc) from exc
    except subprocess.TimeoutExpired as exc:
        raise SystemProblem(f"`{program} --version` gave no answer within {VERSION_WAIT_S:g} s") from exc
    found = re.search(r"v=(\d+)", told)
    if found is None:
        raise SystemProblem(f"{program} --version does not say a version: {told.strip()[:100]!r}")
    return int(found[1])


def server_config(home: Home) -> str:
    """The whole configuration of the server."""
    return "\n".join(
        [
            "# written by ai-infra at every start; edits are lost",
            "port 0",
            f"unixsocket {_quoted(home.redis_socket)}",
            "unixsocketperm 700",
            f"dir {_quoted(home.redis)}",
            "daemonize no",
            "supervised no",
            "appendonly yes",
            "appendfsync always",
            "no-appendfsync-on-rewrite no",
            "aof-use-rdb-preamble yes",
            "auto-aof-rewrite-percentage 100",
            "auto-aof-rewrite-min-size 64mb",
            'save ""',
            "maxmemory-policy noeviction",
            "enable-debug-command no",
            "enable-module-command no",
            "enable-protected-configs no",
            "loglevel notice",
            "",
        ]
    )


def plain_words(line: str) -> tuple[Level, str]:
    """One line of the server's log without its pid and time; no words for its banner, which is indented.

    What it marks with `#`, or says before it has a log, needs a look; the rest is chatter for the log file.
    """
    found = re.match(r"\d+:[A-Z] \d+ \w+ \d+ [\d:.]+ ([.\-*#]) (.*)", line.strip())
    if found is None and re.match(r"[^\s\d]", line):
        return "warning", line.strip()
    if found is None or "Redis is starting" in line:
        return "debug", ""
    return ("warning" if found[1] == "#" else "debug"), found[2]


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _die_with_parent() -> None:
    """In the child: the kernel ends the server when this process dies, kill -9 included."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


async def _in_time(ping: Awaitable[bool]) -> bool:
    try:
        async with asyncio.timeout(PING_WAIT_S):
            return await ping
    except TimeoutError:
        return False


def _file_of(path: Path) -> tuple[int, int] | None:
    """What tells a file from another of its name; None: there is none."""
    try:
        info = path.stat()
    except OSError:
        return None
    return info.st_dev, info.st_ino


async def _end(process: asyncio.subprocess.Process, wait_s: float) -> None:
    """Ask a process to end, and kill it after `wait_s`."""
    ended = asyncio.create_task(process.wait(), name="redis-ends")
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        process.send_signal(signal.SIGTERM)
        # Not asyncio.timeout: in a task that was cancelled before, it does not tell its own end from that.
        if not (await asyncio.wait([ended], timeout=wait_s))[0]:
            process.kill()
    await ended


def _how(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit {code}"
