"""One installation per test: home, tmux server and Redis of its own, all under one short temporary folder."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ai_infra.core.home import Home
from ai_infra.core.process import living_pid
from ai_infra.testing import wait_until

PROGRAM = Path(sys.prefix) / "bin" / "ai-infra"
SESSION = "ai-infrastructure"
WINDOWS = ["supervisor", "code", "data", "infra", "research", "qa", "monitor", "logs", "redis"]


def alive(pid: int | str) -> bool:
    """Whether a process runs; a zombie that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


class Installation:
    """What a person has in front of them: the command, the session, the files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = Home(root / "state")
        self.socket = root / "tmux"
        (root / "home").mkdir()
        (root / "default-tmux").mkdir()
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(root / "home"),
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            "AI_INFRA_HOME": str(self.home.root),
            "AI_INFRA_TMUX_SOCKET": str(self.socket),
            "TMUX_TMPDIR": str(
                root / "default-tmux"
            ),  # where even a mistake would find no server of a person's
        }

    # -- the command ----------------------------------------------------------------------------------------

    def run(self, *words: str, timeout_s: float = 90, **env: str) -> subprocess.CompletedProcess[str]:
        """Run `ai-infra WORDS` to its end."""
        return subprocess.run(
            [PROGRAM, *words], env={**self.env, **env}, cwd=self.root, capture_output=True, text=True,
            timeout=timeout_s, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip

    def ok(self, *words: str, timeout_s: float = 90, **env: str) -> str:
        """The same; it must exit with 0, and its stdout is returned."""
        done = self.run(*words, timeout_s=timeout_s, **env)
        assert done.returncode == 0, f"{words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Begin `ai-infra WORDS` and go on."""
        return subprocess.Popen(
            [PROGRAM, *words], env=self.env, cwd=self.root, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def json(self, *words: str) -> Any:
        """What `ai-infra WORDS --json` prints."""
        done = self.run(*words, "--json")
        assert done.stdout, f"{words}: exit {done.returncode}, {done.stderr}"
        return json.loads(done.stdout)

    def fails(self, *words: str, code: int, **env: str) -> str:
        """It must exit with `code` and say why in stderr, without a traceback; that text is returned."""
        done = self.run(*words, **env)
        assert done.returncode == code, f"{words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stdout + done.stderr
        return done.stderr

    def configure(self, text: str) -> None:
        """Write the user's settings file."""
        self.home.config.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.home.config / "ai-infra.yaml").write_text(text)

    # -- tmux and processes ---------------------------------------------------------------------------------

    def tmux(self, *words: str) -> str:
        """Ask the private server; empty when there is none."""
        done = subprocess.run(
            ["tmux", "-S", str(self.socket), *words],
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout

    def screen(self, window: str) -> str:
        """What a person sees in a window."""
        return self.tmux("capture-pane", "-p", "-J", "-t", f"{SESSION}:{window}")

    def pid(self, window: str) -> int | None:
        """The process of a window; None when it is dead."""
        return living_pid(self.home, window)

    def kill(self, window: str) -> int:
        """kill -9 the process of a window; its pid."""
        pid = wait_until(lambda: self.pid(window), 15, f"{window} lives")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_healed(self, window: str, old_pid: int, timeout_s: float = 20) -> int:
        """Wait until another process serves in the window; its pid."""

        def healed() -> int | None:
            found = next(w for w in self.json("status")["windows"] if w["name"] == window)
            return (
                found["pid"] if found["state"] == "RUNNING" and found["pid"] not in (None, old_pid) else None
            )

        pid = wait_until(healed, timeout_s, f"{window} is back")
        assert pid is not None
        return pid

    def task(self, task_id: str) -> Any:
        """A task as `task show` tells it."""
        return self.json("task", "show", task_id)

    def close(self) -> None:
        """Leave nothing running, whatever the test did."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.run("down", timeout_s=60)
        self.tmux("kill-server")
        mark = f"AI_INFRA_HOME={self.home.root}".encode()
        for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
            with contextlib.suppress(OSError):
                if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.root, ignore_errors=True)


@pytest.fixture
def machine() -> Iterator[Installation]:
    """An installation that is not up."""
    found = Installation(Path(tempfile.mkdtemp(prefix="aih-", dir="/tmp")))
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
def session(machine: Installation) -> Installation:
    """An installation whose session is up."""
    machine.ok("up")
    return machine


@pytest.fixture(scope="module")
def shared_session() -> Iterator[Installation]:
    """A session that is up, for tests that only use it."""
    found = Installation(Path(tempfile.mkdtemp(prefix="aih-", dir="/tmp")))
    try:
        found.ok("up")
        yield found
    finally:
        found.close()
