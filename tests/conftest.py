"""Fixtures shared by all tests. Real parts on private places.

Nothing here reaches a person's Redis, tmux or home.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis.configuration import set_hypothesis_home_dir

from ai_infra.testing import wait_until


def pytest_configure(config: pytest.Config) -> None:
    """What hypothesis keeps goes with the run; by itself it would write into the checkout."""
    folder = tempfile.TemporaryDirectory(prefix="hypothesis-")
    config.add_cleanup(folder.cleanup)
    set_hypothesis_home_dir(folder.name)


@dataclass
class RedisServer:
    """A redis-server of our own: private unix socket, no TCP, every write on disk before it is confirmed."""

    folder: Path
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        return str(self.folder / "redis.sock")

    def start(self) -> None:
        command = ["redis-server", "--port", "0", "--unixsocket", self.address, "--dir", str(self.folder)]
        durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        with open(self.folder / "redis.log", "ab") as log:
            self.process = subprocess.Popen([*command, *durable, *self.options], stdout=log, stderr=log)
        wait_until(lambda: self._answers(), 10, "redis-server answers")

    def kill(self) -> None:
        """As a crash would: SIGKILL, nothing flushed."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(10)

    def ask(self, *words: str) -> str:
        """One command by a connection of its own; the raw reply."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(self.address)
            packed = "".join(f"${len(w.encode())}\r\n{w}\r\n" for w in words)
            connection.sendall(f"*{len(words)}\r\n{packed}".encode())
            return connection.recv(65536).decode()

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "redis.log").read_text()
        try:
            return self.ask("PING").startswith(("+PONG", "-NOAUTH"))
        except OSError:
            return False


def new_redis(options: tuple[str, ...] = ()) -> RedisServer:
    """A server in a new folder with a short path (a socket's name holds about 100 bytes); not started."""
    return RedisServer(Path(tempfile.mkdtemp(prefix="ai-redis-")), options)


def remove_redis(server: RedisServer) -> None:
    """End the server and drop its folder."""
    server.kill()
    shutil.rmtree(server.folder, ignore_errors=True)


@contextlib.contextmanager
def running_redis() -> Iterator[RedisServer]:
    """A server of our own, for the length of a block."""
    server = new_redis()
    try:
        server.start()
        yield server
    finally:
        remove_redis(server)


@pytest.fixture(scope="session")
def redis_process() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
def redis_server(redis_process: RedisServer) -> RedisServer:
    """The shared server, empty."""
    redis_process.ask("FLUSHALL")
    return redis_process


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A server for one test, which may kill and start it."""
    with running_redis() as server:
        yield server
