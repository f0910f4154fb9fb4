"""A private installation for a benchmark: nothing of a person's is touched, nothing of it is left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from benchlib import BenchError

from ai_infra.core.home import Home
from ai_infra.core.process import living_pid
from ai_infra.core.settings import Settings, load_settings
from ai_infra.supervisor.spec import load_session
from ai_infra.testing import wait_until

PROGRAM = Path(sys.prefix) / "bin" / "ai-infra"
COMMAND_TIMEOUT_S = 120.0

T = TypeVar("T")


class Installation:
    """A home, a tmux server and a Redis of our own, in one new folder. Use it with `with`."""

    def __init__(self) -> None:
        if not PROGRAM.exists():
            raise BenchError(f"{PROGRAM.name} is not beside this Python; install ai-infra there first")
        self.root = Path(tempfile.mkdtemp(prefix="aib-"))
        self.socket = self.root / "tmux"
        for name in ("home", "default-tmux"):
            (self.root / name).mkdir()
        self.env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.root / "home"),
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            "AI_INFRA_HOME": str(self.root / "state"),
            "AI_INFRA_TMUX_SOCKET": str(self.socket),
            "TMUX_TMPDIR": str(self.root / "default-tmux"),  # even a mistake finds no server of a person's
        }

    def __enter__(self) -> Installation:
        return self

    def __exit__(self, *_: object) -> None:
        with undisturbed():
            self.close()

    @property
    def settings(self) -> Settings:
        """As a command of this installation has them."""
        return load_settings(Home.from_env(self.env), self.env)

    @property
    def windows(self) -> list[str]:
        """Names of the session's windows, in order."""
        return list(load_session(self.settings).names)

    @property
    def agents(self) -> list[str]:
        """Names of the windows that take tasks, but the supervisor."""
        return [name for name in self.windows if name in self.settings.agents and name != "supervisor"]

    def run(
        self, *argv: str | Path, timeout_s: float = COMMAND_TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in this installation's environment. Raises BenchError when it does not end."""
        try:
            return subprocess.run(
                [str(word) for word in argv], env=self.env, cwd=self.root, capture_output=True, text=True,
                stdin=subprocess.DEVNULL, timeout=timeout_s, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise BenchError(f"{exc}") from exc

    def ok(self, *argv: str | Path) -> str:
        """The same; it must exit with 0, and its stdout is returned."""
        done = self.run(*argv)
        if done.returncode != 0:
            words = " ".join(str(word) for word in argv)
            said = (done.stderr or done.stdout).strip()
            raise BenchError(f"`{words}` ended with exit code {done.returncode}: {said}")
        return done.stdout

    def timed_s(self, *argv: str | Path) -> float:
        """Seconds that ok() takes."""
        began = time.perf_counter()
        self.ok(*argv)
        return time.perf_counter() - began

    def pid(self, window: str) -> int:
        """The process of a window. Raises BenchError when there is none."""
        pid = living_pid(self.settings.home, window)
        if pid is None:
            raise BenchError(f"the window {window} has no process")
        return pid

    def tmux(self, *words: str) -> str:
        """Ask the private server; empty when there is none."""
        return self.run("tmux", "-S", self.socket, *words).stdout.strip()

    def close(self) -> None:
        """End everything of this installation, and remove its folder. Twice is safe."""
        if (self.root / "state").exists():
            with contextlib.suppress(BenchError):
                self.run(PROGRAM, "down", timeout_s=60)
        if self.socket.exists():
            with contextlib.suppress(BenchError):
                self.run("tmux", "-S", self.socket, "kill-server", timeout_s=10)
        end_processes_of(self.root)
        shutil.rmtree(self.root, ignore_errors=True)


def end_processes_of(root: Path) -> None:
    """kill -9 of all whose environment or working folder names `root`; they are gone on return."""
    deadline = time.monotonic() + 10
    while (left := _processes_of(root)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _processes_of(root: Path) -> list[int]:
    """Pids whose environment or working folder names `root`, which is ours alone."""
    mark = str(root)
    found = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()):
        with contextlib.suppress(OSError):
            if (
                mark.encode() in Path(f"/proc/{pid}/environ").read_bytes()
                or mark in os.readlink(f"/proc/{pid}/cwd")
            ):  # fmt: skip
                found.append(pid)
    return found


def eventually(condition: Callable[[], T], timeout_s: float, what: str) -> T:
    """Wait for a condition, and give its answer. Raises BenchError after `timeout_s`."""
    try:
        return wait_until(condition, timeout_s, what)
    except AssertionError as exc:
        raise BenchError(str(exc)) from None


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Tidying up is not interrupted: it is short, and ends what would go on for ever."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {n: signal.signal(n, signal.SIG_IGN) for n in numbers}
    try:
        yield
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)
