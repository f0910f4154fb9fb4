"""The embedded Redis, really run: private, on disk before it answers, one at a time, gone with its parent."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ai_infra.connectors import embedded_redis as room
from ai_infra.connectors.embedded_redis import EmbeddedRedis, find_server, plain_words, server_config
from ai_infra.core.durable import is_locked
from ai_infra.core.errors import Conflict, Failed, SystemProblem
from ai_infra.core.home import Home
from ai_infra.testing import wait_until, wait_until_async

#: A window's process that serves until it is killed.
PARENT = """
import asyncio, sys
from pathlib import Path
from ai_infra.connectors.embedded_redis import EmbeddedRedis
from ai_infra.core.home import Home

async def main():
    home = Home(Path(sys.argv[1]))
    home.ensure()
    server = EmbeddedRedis(home, lambda words, level: None)
    await server.start()
    print(server.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


class Place:
    """A home, and whoever serves in it."""

    def __init__(self, folder: Path, name: str = "home") -> None:
        self.folder = folder
        self.home = Home(folder / name)
        self.home.ensure()
        self.said: list[tuple[str, str]] = []
        self.pids: list[int] = []

    def server(self) -> EmbeddedRedis:
        return EmbeddedRedis(self.home, lambda words, level: self.said.append((level, words)))

    def serving(self, act: Callable[[EmbeddedRedis], Awaitable[None]], stop_s: float = 10) -> None:
        """One life of a server, around `act`."""

        async def main() -> None:
            server = self.server()
            await server.start()
            self.pids.append(server.pid)
            try:
                await self.answers()
                await asyncio.wait_for(act(server), 30)
            finally:
                await server.stop(stop_s)
                server._data.release()

        asyncio.run(main())

    def ask(self, *words: str) -> str:
        """One command on a connection of its own; the raw reply."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(self.home.redis_socket))
            packed = "".join(f"${len(w.encode())}\r\n{w}\r\n" for w in words)
            connection.sendall(f"*{len(words)}\r\n{packed}".encode())
            return connection.recv(65536).decode()

    async def answers(self) -> None:
        """Wait until it serves; start() has done that (see below)."""

        async def pong() -> bool:
            try:
                return self.ask("PING") == "+PONG\r\n"
            except ConnectionError:
                return False

        await wait_until_async(pong, 10, "the server answers")

    def setting(self, name: str) -> str:
        return self.ask("CONFIG", "GET", name).split("\r\n")[4]


@pytest.fixture
def folder() -> Iterator[Path]:
    found = Path(tempfile.mkdtemp(prefix="ai-redis-"))
    yield found
    shutil.rmtree(found, ignore_errors=True)


@pytest.fixture
def place(folder: Path) -> Iterator[Place]:
    found = Place(folder)
    yield found
    assert [pid for pid in found.pids if alive(pid)] == []


# -- private and durable ------------------------------------------------------------------------------------


def test_only_the_owner_reaches_it_and_only_by_its_socket(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "key-of-a-person")

    async def look(server: EmbeddedRedis) -> None:
        assert place.ask("PING") == "+PONG\r\n"
        process = psutil.Process(server.pid)
        assert stat.S_IMODE(place.home.redis_socket.stat().st_mode) == 0o700
        assert stat.S_IMODE(place.home.run.stat().st_mode) == 0o700
        assert process.net_connections("inet") == []
        assert {c.laddr for c in process.net_connections("unix") if c.laddr} == {str(place.home.redis_socket)}
        assert set(process.environ()) <= {"PATH", "LANG"}
        assert process.cwd() == str(place.home.redis)
        assert process.uids().real == os.geteuid()

    place.serving(look)


def test_every_write_is_on_disk_before_it_is_answered(place: Place) -> None:
    async def look(server: EmbeddedRedis) -> None:
        wanted = {
            "port": "0", "appendonly": "yes", "appendfsync": "always", "no-appendfsync-on-rewrite": "no",
            "maxmemory-policy": "noeviction", "save": "", "dir": str(place.home.redis), "maxmemory": "0",
        }  # fmt: skip
        assert {name: place.setting(name) for name in wanted} == wanted

    place.serving(look)


def test_nobody_can_turn_it_into_something_else(place: Place) -> None:
    async def look(server: EmbeddedRedis) -> None:
        for words in (["CONFIG", "SET", "dir", "/tmp"], ["MODULE", "LOAD", "/x"], ["DEBUG", "SLEEP", "0"]):
            assert place.ask(*words).startswith("-"), words

    place.serving(look)


def test_what_was_acknowledged_outlives_kill_9(place: Place) -> None:
    kept: list[int] = []

    async def write_until_killed(server: EmbeddedRedis) -> None:
        def write() -> None:
            for i in range(100_000):
                try:
                    if place.ask("SET", f"k{i}", "x") != "+OK\r\n":
                        return
                except OSError:
                    return
                kept.append(i)

        writing = asyncio.create_task(asyncio.to_thread(write))

        async def some() -> bool:
            return len(kept) > 30

        await wait_until_async(some)
        os.kill(server.pid, signal.SIGKILL)
        await writing

    async def look(server: EmbeddedRedis) -> None:
        missing = [i for i in kept if place.ask("GET", f"k{i}") != "$1\r\nx\r\n"]
        assert missing == []

    place.serving(write_until_killed)
    place.serving(look)


def test_data_is_kept_over_stop_and_start(place: Place) -> None:
    async def write(server: EmbeddedRedis) -> None:
        assert place.ask("SET", "key", "value") == "+OK\r\n"

    async def read(server: EmbeddedRedis) -> None:
        assert place.ask("GET", "key") == "$5\r\nvalue\r\n"

    place.serving(write)
    assert not place.home.redis_socket.exists()
    place.serving(read, stop_s=0)  # killed at once
    place.serving(read)


@pytest.mark.parametrize("name", ["a b", 'a"b', "a'b", "ü", "a#b", "a\\b", "a$x"])
def test_a_home_with_an_odd_name(folder: Path, name: str) -> None:
    place = Place(folder, name)

    async def look(server: EmbeddedRedis) -> None:
        assert place.ask("PING") == "+PONG\r\n"

    place.serving(look)


def test_its_configuration_is_written_anew_and_private(place: Place) -> None:
    config = place.home.run / "redis.conf"
    config.write_text("port 6379\n")

    async def look(server: EmbeddedRedis) -> None:
        assert config.read_text() == server_config(place.home)
        assert stat.S_IMODE(config.stat().st_mode) == 0o600

    place.serving(look)


def test_what_it_says_is_passed_on_without_its_banner(place: Place) -> None:
    async def look(server: EmbeddedRedis) -> None:
        async def ready() -> bool:
            return any("eady to accept connections" in words for _, words in place.said)

        await wait_until_async(ready)

    place.serving(look)
    assert all(words and not words[0].isdigit() and "_._" not in words for _, words in place.said)


# -- one at a time ------------------------------------------------------------------------------------------


def test_a_second_server_on_the_same_folder_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "DATA_WAIT_S", 0.2)
    monkeypatch.setattr(room, "KILL_WAIT_S", 0.2)

    async def look(server: EmbeddedRedis) -> None:
        with pytest.raises(
            Conflict, match=f"{place.home.redis}: another redis-server still uses this folder"
        ):
            await place.server().start()
        assert place.ask("PING") == "+PONG\r\n"  # the first is as it was

    place.serving(look)


def test_a_second_server_waits_for_the_end_of_the_first(place: Place) -> None:
    async def main() -> None:
        first, second = place.server(), place.server()
        await first.start()
        place.pids.append(first.pid)
        await place.answers()
        assert place.ask("SET", "key", "value") == "+OK\r\n"
        starting = asyncio.create_task(second.start())
        try:
            await asyncio.sleep(0)
            await first.stop(10)
            assert not starting.done()
            first._data.release()
            await asyncio.wait_for(starting, 20)
            place.pids.append(second.pid)
            await place.answers()
            assert place.ask("GET", "key") == "$5\r\nvalue\r\n"
        finally:
            for server in (first, second):
                await server.stop(10)
                server._data.release()

    asyncio.run(main())


def test_the_folder_is_free_after_stop(place: Place) -> None:
    async def main() -> None:
        server = place.server()
        await server.start()
        place.pids.append(server.pid)
        await server.stop(10)
        free = not is_locked(place.home.redis / "server.lock")
        server._data.release()
        assert free

    asyncio.run(main())


def test_a_server_that_outlived_its_parent_still_owns_its_data(place: Place) -> None:
    """Whoever comes next waits for it: two must never append to one file."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(place.home.root)], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, signal.SIGSTOP)  # asked to end by the kernel, it cannot yet
        parent.kill()
    try:
        assert is_locked(place.home.redis / "server.lock")
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not is_locked(place.home.redis / "server.lock"), 10, "the folder is free")
    assert not alive(pid)


def test_a_server_that_is_stopped_and_outlived_its_parent_is_killed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "DATA_WAIT_S", 0.2)
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(place.home.root)], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert place.ask("SET", "key", "value") == "+OK\r\n"
        os.kill(pid, signal.SIGSTOP)
        parent.kill()

    async def read(server: EmbeddedRedis) -> None:
        assert place.ask("GET", "key") == "$5\r\nvalue\r\n"

    place.serving(read)
    assert not alive(pid)
    assert ("warning", f"the server of the life before (pid {pid}) does not end and is killed") in place.said


def test_kill_9_of_its_parent_ends_it_and_the_next_has_the_data(place: Place) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(place.home.root)], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        asyncio.run(place.answers())
        assert place.ask("SET", "key", "value") == "+OK\r\n"
        parent.kill()
    wait_until(lambda: not alive(pid), 10, "the server is gone")

    async def read(server: EmbeddedRedis) -> None:
        assert place.ask("GET", "key") == "$5\r\nvalue\r\n"

    place.serving(read)


# -- its end ------------------------------------------------------------------------------------------------


async def _yes() -> bool:
    return True


async def _no() -> bool:
    return False


@pytest.mark.parametrize(
    ("number", "how"), [(signal.SIGKILL, "killed by signal 9"), (signal.SIGTERM, "exit 0")]
)
def test_its_end_is_seen_at_once(place: Place, number: signal.Signals, how: str) -> None:
    async def act(server: EmbeddedRedis) -> None:
        watching = asyncio.create_task(server.watch(_yes))
        await asyncio.sleep(0)
        os.kill(server.pid, number)
        with pytest.raises(Failed, match=rf"redis-server ended \({how}\)"):
            await asyncio.wait_for(watching, 5)

    place.serving(act)


def test_one_that_hangs_is_killed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "PING_EVERY_S", 0.02)
    monkeypatch.setattr(room, "HUNG_AFTER_S", 0.06)

    async def act(server: EmbeddedRedis) -> None:
        with pytest.raises(Failed, match=r"gave no answer for 0\.06 s and was killed"):
            await asyncio.wait_for(server.watch(_no), 5)

    place.serving(act)


def test_a_silence_that_ends_is_forgiven(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "PING_EVERY_S", 0.01)
    monkeypatch.setattr(room, "HUNG_AFTER_S", 0.03)
    answers = [False, False, True] * 5

    async def ping() -> bool:
        return answers.pop() if answers else True

    async def act(server: EmbeddedRedis) -> None:
        watching = asyncio.create_task(server.watch(ping))

        async def asked() -> bool:
            return not answers

        await wait_until_async(asked)
        assert not watching.done()
        watching.cancel()

    place.serving(act)


def test_stop_is_bounded_and_twice_is_safe(place: Place) -> None:
    async def act(server: EmbeddedRedis) -> None:
        os.kill(server.pid, signal.SIGSTOP)
        began = time.monotonic()
        await server.stop(0.2)
        assert 0.2 <= time.monotonic() - began < 3
        await server.stop(0.2)

    place.serving(act)


def test_stop_before_start_does_nothing(place: Place) -> None:
    asyncio.run(place.server().stop(1))


# -- what keeps it from starting ----------------------------------------------------------------------------


def test_a_socket_left_by_a_killed_server_is_no_hindrance(place: Place) -> None:
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(place.home.redis_socket))

    async def look(server: EmbeddedRedis) -> None:
        assert place.ask("PING") == "+PONG\r\n"

    place.serving(look)


def test_it_answers_when_start_returns(place: Place) -> None:
    async def write_much(server: EmbeddedRedis) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(place.home.redis_socket))
            connection.sendall(b"".join(b"SET k%d x\r\n" % i for i in range(200_000)) + b"QUIT\r\n")
            while connection.recv(1 << 20):
                pass

    async def ask_at_once() -> None:
        server = place.server()
        await server.start()
        place.pids.append(server.pid)
        try:
            assert place.ask("GET", "k7") == "$1\r\nx\r\n"
        finally:
            await server.stop(10)
            server._data.release()

    place.serving(write_much)
    asyncio.run(ask_at_once())


def test_damaged_data_is_told_by_start(place: Place) -> None:
    """Else the window waits for ever for a server that has ended, and nobody says why."""
    (place.home.redis / "appendonlydir").mkdir()
    (place.home.redis / "appendonlydir" / "appendonly.aof.manifest").write_text("garbage\n")

    async def main() -> None:
        server = place.server()
        try:
            with pytest.raises(Failed, match=r"redis-server did not start: .*manifest"):
                await server.start()
        finally:
            await server.stop(10)
            server._data.release()

    for _ in range(5):  # it may be seen by chance
        asyncio.run(main())


def test_on_a_full_disk_it_waits_for_room_and_says_so_once(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[None] = []

    def full(home: Home) -> bool:
        asked.append(None)
        return len(asked) < 5

    monkeypatch.setattr(Home, "is_full", full)
    monkeypatch.setattr(room, "ROOM_EVERY_S", 0.01)

    async def look(server: EmbeddedRedis) -> None:
        assert place.ask("PING") == "+PONG\r\n"

    place.serving(look)
    assert len(asked) == 5
    errors = [words for level, words in place.said if level == "error"]
    assert errors == [
        f"the disk of {place.home.root} is full: waiting for room; nothing that was kept is lost"
    ]


def stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str | None) -> None:
    """A PATH with this redis-server only."""
    (folder / "bin").mkdir()
    if text is not None:
        (folder / "bin" / "redis-server").write_text(text)
        (folder / "bin" / "redis-server").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder / "bin"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "redis-server is not installed; `apt-get install redis-server` adds it"),
        ("#!/bin/sh\necho Redis server v=6.2.14 sha=0\n", "is version 6; ai-infra needs Redis 7 or later"),
        ("#!/bin/sh\necho Valkey\n", "does not say a version: 'Valkey'"),
        ("#!/bin/sh\nexit 1\n", "does not say a version: ''"),
        ("#!/no/such/interpreter\n", "redis-server"),
    ],
)
def test_no_server_to_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, said: str
) -> None:
    stand_in(monkeypatch, folder, text)
    with pytest.raises(SystemProblem, match=said):
        find_server()


def test_a_server_that_does_not_say_its_version(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, folder, "#!/bin/sh\nexec /bin/sleep 600\n")
    monkeypatch.setattr(room, "VERSION_WAIT_S", 0.2)
    with pytest.raises(SystemProblem, match=r"redis-server --version` gave no answer within 0.2 s"):
        find_server()


@pytest.mark.parametrize("version", ["7.0.15", "7.2.4", "8.0.0", "10.1.0"])
def test_versions_that_will_do(folder: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    stand_in(monkeypatch, folder, f"#!/bin/sh\necho Redis server v={version} sha=0\n")
    assert find_server() == str(folder / "bin" / "redis-server")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "123:M 20 Nov 2026 13:09:56.123 * Ready to accept connections\n",
            ("debug", "Ready to accept connections"),
        ),
        ("123:M 20 Nov 2026 13:09:56.123 # WARNING: no memory", ("warning", "WARNING: no memory")),
        ("123:C 20 Nov 2026 13:09:56.123 . detail", ("debug", "detail")),
        ("123:C 20 Nov 2026 13:09:56.123 * oO0OoO0OoO0Oo Redis is starting oO0OoO0OoO0Oo", ("debug", "")),
        ("  _._   ", ("debug", "")),
        ("", ("debug", "")),
    ],
)
def test_lines_of_its_log(line: str, told: tuple[str, str]) -> None:
    assert plain_words(line) == told


def test_a_fatal_word_without_a_time_is_not_lost() -> None:
    assert plain_words("*** FATAL CONFIG FILE ERROR (Redis 7.0.15) ***")[1]
    assert plain_words("Bad directive or wrong number of arguments")[1]


# -- hung, and cancelled -------------------------------------------------------------------------------------


def test_a_server_whose_socket_was_removed_ends_by_name(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "PING_EVERY_S", 0.05)

    async def look(server: EmbeddedRedis) -> None:
        place.home.redis_socket.unlink()
        with pytest.raises(Failed, match=r"redis\.sock was removed"):
            await asyncio.wait_for(server.watch(), 10)

    place.serving(look)


def test_a_server_whose_socket_was_replaced_ends_by_name(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by one who puts an old socket back: the pings go on over the connection that is open."""
    monkeypatch.setattr(room, "PING_EVERY_S", 0.05)

    async def look(server: EmbeddedRedis) -> None:
        with socket.socket(socket.AF_UNIX) as old:
            old.bind(str(place.home.redis_socket) + "2")
            os.rename(str(place.home.redis_socket) + "2", place.home.redis_socket)
            with pytest.raises(Failed, match=r"redis\.sock was replaced"):
                await asyncio.wait_for(server.watch(), 10)

    place.serving(look)


def test_a_stopped_server_is_noticed_by_pings_of_its_own(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "PING_EVERY_S", 0.02)
    monkeypatch.setattr(room, "PING_WAIT_S", 0.1)
    monkeypatch.setattr(room, "HUNG_AFTER_S", 0.3)

    async def act(server: EmbeddedRedis) -> None:
        watching = asyncio.create_task(server.watch())
        os.kill(server.pid, signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(Failed, match=r"gave no answer for 0\.3 s and was killed"):
            await asyncio.wait_for(watching, 5)
        assert time.monotonic() - began < 1

    place.serving(act)


def test_a_ping_that_never_returns_is_silence(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "PING_EVERY_S", 0.02)
    monkeypatch.setattr(room, "PING_WAIT_S", 0.05)
    monkeypatch.setattr(room, "HUNG_AFTER_S", 0.1)

    async def never() -> bool:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    async def act(server: EmbeddedRedis) -> None:
        with pytest.raises(Failed, match="and was killed"):
            await asyncio.wait_for(server.watch(never), 5)

    place.serving(act)


def test_a_server_that_is_busy_or_loads_lives(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "PING_EVERY_S", 0.01)
    monkeypatch.setattr(room, "HUNG_AFTER_S", 0.05)

    async def act(server: EmbeddedRedis) -> None:
        assert place.ask("CONFIG", "SET", "lua-time-limit", "10") == "+OK\r\n"
        with socket.socket(socket.AF_UNIX) as busy:
            busy.connect(str(place.home.redis_socket))
            busy.sendall(b'EVAL "while true do end" 0\r\n')

            async def refuses() -> bool:
                return place.ask("PING").startswith("-BUSY")

            await wait_until_async(refuses)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(server.watch(), 0.3)
            assert place.ask("SCRIPT", "KILL") == "+OK\r\n"

    place.serving(act)


def left_behind(place: Place) -> list[str]:
    """What a start that was cancelled must not leave."""
    others = [str(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    locked = ["the lock"] if is_locked(place.home.redis / "server.lock") else []
    here = str(place.home.root)
    mine = [str(child) for child in psutil.Process().children() if here in " ".join(child.cmdline())]
    return others + locked + mine


async def cancelled(starting: asyncio.Task[None]) -> None:
    began = time.monotonic()
    starting.cancel()
    await asyncio.wait([starting], timeout=5)
    assert starting.cancelled()
    assert time.monotonic() - began < 1
    await asyncio.sleep(0)


def test_cancelled_while_another_has_the_data(place: Place) -> None:
    async def act(server: EmbeddedRedis) -> None:
        starting = asyncio.create_task(place.server().start())
        await asyncio.sleep(0)
        await cancelled(starting)
        assert place.ask("PING") == "+PONG\r\n"

    place.serving(act)


def test_cancelled_while_there_is_no_room(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Home, "is_full", lambda home: True)

    async def main() -> None:
        starting = asyncio.create_task(place.server().start())

        async def waits() -> bool:
            return bool(place.said)

        await wait_until_async(waits)
        await cancelled(starting)
        assert left_behind(place) == []

    asyncio.run(main())


def test_cancelled_while_the_server_loads(place: Place) -> None:
    async def main() -> None:
        server = place.server()
        starting = asyncio.create_task(server.start())
        while server._process is None:  # noqa: ASYNC110 an event would change what is tested
            await asyncio.sleep(0)
        assert not starting.done()
        await cancelled(starting)
        assert left_behind(place) == []

    asyncio.run(main())
