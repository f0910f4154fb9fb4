"""A private redis-server for one measurement, and what can be learned of it from outside."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hiredis
import psutil
from benchinstallation import end_processes_of, eventually, undisturbed
from benchlib import BenchError
from benchprocess import cpu_s

START_S = 10.0
ANSWER_S = 60.0
DRAIN_S = 0.5  #: what was told already is read in this time


class Server:
    """Append-only, on a unix socket alone, in a new folder; ended and removed on exit. Use it with `with`."""

    def __init__(self, fsync: str = "everysec") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="aib-"))
        self.socket = self.folder / "redis.sock"
        self._fsync = fsync
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        try:
            self._process = self._start()
            eventually(self._answers, START_S, "redis-server answers")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> subprocess.Popen[bytes]:
        words = {
            "port": "0", "unixsocket": self.socket, "dir": self.folder, "save": "", "appendonly": "yes",
            "appendfsync": self._fsync, "auto-aof-rewrite-percentage": "0", "logfile": self.folder / "log",
        }  # fmt: skip
        argv = ["redis-server", *(str(w) for name, word in words.items() for w in (f"--{name}", word))]
        try:
            return subprocess.Popen(
                argv, env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.folder)},
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        except OSError as exc:
            raise BenchError(f"redis-server cannot be started: {exc}") from exc

    def __exit__(self, *_: object) -> None:
        with undisturbed():
            if self._process is not None:
                self._process.kill()
                self._process.wait()
            end_processes_of(self.folder)  # those whose start was interrupted
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        """Of the server."""
        assert self._process is not None, "not started"
        return self._process.pid

    def _answers(self) -> bool:
        try:
            return bool(self.ask("PING") == "PONG")
        except OSError:
            return False

    def ask(self, *words: str) -> Any:
        """One command on a connection of its own."""
        with self._connect() as line:
            line.sendall(hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub says a 1-tuple
            reader = hiredis.Reader(encoding="utf-8")
            while (reply := reader.gets()) is False:
                reader.feed(line.recv(65536))
        return reply

    def _connect(self) -> socket.socket:
        line = socket.socket(socket.AF_UNIX)
        line.settimeout(ANSWER_S)
        line.connect(str(self.socket))
        return line

    def info(self, section: str) -> dict[str, str]:
        """A section of INFO."""
        return dict(row.split(":", 1) for row in self.ask("INFO", section).splitlines() if ":" in row)

    def calls(self, command: str) -> tuple[int, float]:
        """How often a command was called so far, and the µs of the server that it took."""
        row = self.info("commandstats").get(f"cmdstat_{command}", "calls=0,usec=0")
        found = dict(part.split("=") for part in row.split(","))
        return int(found["calls"]), float(found["usec"])

    @property
    def memory_mb(self) -> float:
        """What its data takes."""
        return int(self.info("memory")["used_memory"]) / 1e6

    @property
    def cpu_s(self) -> float:
        """CPU time so far."""
        return cpu_s(psutil.Process(self.pid))

    @property
    def fsyncs(self) -> int:
        """How often it wrote to its append-only file so far; with fsync always, one fsync follows each.

        All write calls that the kernel counts, less those that went to clients. Checked with strace.
        """
        text = Path(f"/proc/{self.pid}/io").read_text()
        writes = int(re.search(r"syscw: (\d+)", text)[1])  # type: ignore[index]
        return writes - int(self.info("stats")["total_writes_processed"])

    @contextlib.contextmanager
    def spy(self) -> Iterator[Spy]:
        """Note what clients send from now on."""
        with self._connect() as line:
            line.sendall(b"MONITOR\r\n")
            line.recv(5)  # +OK
            yield Spy(line)


class Spy:
    """A connection that Redis tells of every command."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line

    def seen(self) -> int:
        """Commands of clients until now; those inside functions are not counted. Ask once."""
        now, text = time.time(), bytearray()
        self._line.settimeout(DRAIN_S)
        with contextlib.suppress(TimeoutError):
            while time.time() < now + DRAIN_S and (part := self._line.recv(65536)):
                text += part
        rows = re.findall(r"^\+(\d+\.\d+) \[(.*?)\]", text.decode(errors="replace"), re.MULTILINE)
        return sum(float(at) <= now and not who.endswith(" lua") for at, who in rows)
