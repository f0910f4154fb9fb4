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

from ai_infra.core.durable import FileLock, system_problem, write_text
from ai_infra.core.errors import Conflict, Failed, SystemProblem
from ai_infra.core.events import Level
from ai_infra.core.home import Home

OLDEST = 7
PING_EVERY_S = 5.0
HUNG_AFTER_S = 30.0
POLL_S = 0.01
ROOM_EVERY_S = 1.0
DATA_WAIT_S = 20.0  #: a server that was asked to end may write for a while
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

    async def start(self) -> None:
        """Start the server; it answers when this returns. Raises SystemProblem, Failed."""
        program = find_server()
        await self._take_data()
        await self._wait_for_room()
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
        while not self._home.redis_socket.exists():
            if self._process.returncode is not None:
                await self._saying
                raise Failed(f"redis-server did not start: {self._last_words or 'it said nothing'}")
            await asyncio.sleep(POLL_S)

    @property
    def pid(self) -> int:
        """The server's own pid."""
        assert self._process is not None, "not started"
        return self._process.pid

    async def watch(self, ping: Ping) -> None:
        """Return never: raises Failed when the server ended, or was killed because it hung."""
        assert self._process is not None, "not started"
        ended = asyncio.create_task(self._process.wait(), name="redis-ended")
        silent_s = 0.0
        try:
            while True:
                done, _ = await asyncio.wait([ended], timeout=PING_EVERY_S)
                if done:
                    raise Failed(f"redis-server ended ({_how(ended.result())}): {self._last_words}")
                silent_s = 0.0 if await ping() else silent_s + PING_EVERY_S
                if silent_s >= HUNG_AFTER_S:
                    self._process.kill()
                    raise Failed(f"redis-server gave no answer for {silent_s:g} s and was killed")
        finally:
            ended.cancel()

    async def stop(self, wait_s: float) -> None:
        """Ask it to end, and kill it after `wait_s`. What was acknowledged is on disk either way."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(wait_s):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    async def _take_data(self) -> None:
        """Own the data folder, waiting for a server that ends.

        The server inherits the lock: one that outlived its parent (the kernel told it to end) still has it,
        so two servers never append to one file.
        """
        deadline = time.monotonic() + DATA_WAIT_S
        while not self._data.try_acquire():
            if time.monotonic() > deadline:
                raise Conflict(
                    f"{self._home.redis}: another redis-server still uses this folder; "
                    f"`fuser {self._data.path}` names it"
                )
            await asyncio.sleep(POLL_S)

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
    told = subprocess.run(
        [program, "--version"], capture_output=True, text=True, timeout=10, check=False
    ).stdout
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
    """One line of the server's log without its pid and time; no words for its banner.

    What it marks with `#` needs a look; the rest is chatter for the log file.
    """
    found = re.match(r"\d+:[A-Z] \d+ \w+ \d+ [\d:.]+ ([.\-*#]) (.*)", line.strip())
    if found is None or "Redis is starting" in line:
        return "debug", ""
    return ("warning" if found[1] == "#" else "debug"), found[2]


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _die_with_parent() -> None:
    """In the child: the kernel ends the server when this process dies, kill -9 included."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _how(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit {code}"
