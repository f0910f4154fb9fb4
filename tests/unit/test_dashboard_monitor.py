"""The monitor: frames that fit, and the real thing in a real tmux window that is resized and stopped."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from dashboard_data import assert_fits, monitor_data, snapshot, window

from ai_infra.core.process import ProcessState
from ai_infra.dashboard.ink import ink
from ai_infra.dashboard.machine import read_machine
from ai_infra.dashboard.monitor import frame
from ai_infra.dashboard.screen import Screen
from ai_infra.supervisor.snapshot import Health
from ai_infra.testing import wait_until

HERE = Path(__file__).parent
SIZES = [(200, 50), (80, 24), (120, 30), (40, 10), (20, 3), (300, 100)]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("hostile", [False, True])
@pytest.mark.parametrize("trouble", ["", "Redis at unix:///x does not answer; `ai-infra doctor` says more"])
def test_every_frame_fits(width: int, height: int, hostile: bool, trouble: str) -> None:
    lines = frame(monitor_data(hostile=hostile), width, height, trouble=trouble)
    assert len(lines) <= height
    assert_fits(lines, width)


def text_of(width: int, height: int, **fields: object) -> str:
    return "\n".join(line.plain for line in frame(monitor_data(**fields), width, height))


@pytest.mark.parametrize(("width", "height"), [(200, 50), (80, 24)])
def test_the_essential_is_on_every_screen(width: int, height: int) -> None:
    text = text_of(width, height)
    for words in ("ai-infrastructure", "up since", "3h12m", "Redis ok, durable", "load 0.42 of 2",
                  "memory 3.0G of 8.0G", "disk 41%", "supervisor  RUNNING", "BACKOFF 3s", "offline",
                  "measures attempt 2", "ready", "failed/h", "checkup", "3/6", "1 failed",
                  "lint59 started"):  # fmt: skip
        assert words in text, words


def test_a_big_screen_has_every_column_and_more_events() -> None:
    text = text_of(200, 50)
    for words in (
        "health",
        "blocked",
        "done/h",
        "cpu",
        "memory",
        "restarts",
        "uptime",
        "ended last",
        "lint40",
    ):
        assert words in text, words


@pytest.mark.parametrize(("width", "height"), [(200, 50), (80, 24)])
def test_what_needs_a_person_is_a_banner_that_says_what_to_do(width: int, height: int) -> None:
    windows = list(snapshot().windows)
    windows[5] = window(
        "qa", 5, state=ProcessState.FATAL, health=Health.OFFLINE, restarts=5, last_exit="exit 1"
    )
    text = text_of(width, height, windows=tuple(windows), durable=False, problems=("tmux is unclear: slow",))
    for words in (
        "! qa is FATAL",
        "ai-infra restart qa",
        "NOT durable",
        "tmux is unclear",
        "qa          FATAL",
    ):
        assert words in text, words


def test_before_the_first_read_the_window_says_why_it_is_empty() -> None:
    assert "reading" in frame(None, 80, 24)[0].plain
    assert "no answer" in frame(None, 80, 24, trouble="no answer")[0].plain


def test_the_machine_is_read_from_where_the_home_is(tmp_path: Path) -> None:
    machine = read_machine(tmp_path)
    assert machine.cpus >= 1
    assert 0 < machine.memory_used_bytes < machine.memory_total_bytes
    assert 0 <= machine.disk_used <= 1


RUNNER = """
import asyncio, signal, sys
from dataclasses import replace
sys.path[:0] = {paths!r}
from ai_infra.core.errors import ConnectorUnavailable
from ai_infra.dashboard.monitor import run_monitor
from dashboard_data import monitor_data

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    reads = 0
    async def read():
        nonlocal reads
        reads += 1
        if open({switch!r}).read():
            raise ConnectorUnavailable("Redis is away")
        data = monitor_data(hostile=False)
        return replace(data, snapshot=replace(data.snapshot, at=data.snapshot.at + reads))
    await run_monitor(read, stop, refresh_s={refresh_s})
    print("ended well")

asyncio.run(main())
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough a name for tmux's socket."""
    with tempfile.TemporaryDirectory(prefix="ai-mon-") as name:
        yield Path(name)


@pytest.fixture
def screen(folder: Path, request: pytest.FixtureRequest) -> Iterator[MonitorWindow]:
    """Drawn so often as the test's parameter says, in seconds."""
    found = MonitorWindow(folder, getattr(request, "param", 0.05))
    try:
        yield found
    finally:
        found.tmux("kill-server")


class MonitorWindow:
    """The monitor on a tmux server of our own."""

    def __init__(self, folder: Path, refresh_s: float) -> None:
        self._folder = folder
        self.switch = folder / "away"
        self.switch.write_text("")
        script = folder / "monitor.py"
        paths = [str(HERE), str(HERE.parent.parent)]
        script.write_text(RUNNER.format(paths=paths, switch=str(self.switch), refresh_s=refresh_s))
        self.tmux("new-session", "-d", "-x", "100", "-y", "30", sys.executable, str(script))
        self.tmux("set-option", "-w", "remain-on-exit", "on")

    def tmux(self, *words: str) -> str:
        env = {**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        command = ["tmux", "-S", str(self._folder / "tmux.sock"), "-f", "/dev/null", *words]
        return subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=10, check=False
        ).stdout

    @property
    def shown(self) -> str:
        return self.tmux("capture-pane", "-p")


def test_in_a_real_window_it_draws_adapts_survives_silence_and_stops(screen: MonitorWindow) -> None:
    wait_until(
        lambda: "supervisor  RUNNING" in screen.shown and "lint59" in screen.shown, 10, "the first frame"
    )
    assert "last end" not in screen.shown
    first = screen.shown.splitlines()[0]
    wait_until(lambda: screen.shown.splitlines()[0] != first, 5, "the clock goes on")

    screen.tmux("resize-window", "-x", "190", "-y", "40")
    wait_until(
        lambda: "uptime" in screen.shown and len(screen.shown.splitlines()[0]) > 180, 5, "the bigger frame"
    )
    screen.tmux("resize-window", "-x", "60", "-y", "20")
    small = ("supervisor", "lint59")  # once each, and no column for which there is no room
    wait_until(
        lambda: "uptime" not in (text := screen.shown) and [text.count(word) for word in small] == [1, 1],
        5,
        "the smaller frame",
    )

    screen.switch.write_text("away")
    wait_until(lambda: "Redis is away" in screen.shown and "supervisor" in screen.shown, 5, "the banner")
    screen.switch.write_text("")
    wait_until(lambda: "Redis is away" not in screen.shown, 5, "the banner goes")

    screen.tmux("send-keys", "C-s", "h", "i")  # neither stops it nor shows
    before = screen.shown.splitlines()[0]
    wait_until(lambda: screen.shown.splitlines()[0] != before, 5, "it goes on after Ctrl-S")
    assert "hi\n" not in screen.shown

    os.kill(int(screen.tmux("display-message", "-p", "#{pane_pid}")), 15)
    wait_until(lambda: "ended well" in screen.shown, 5, "the end")
    assert screen.tmux("display-message", "-p", "#{cursor_flag}").strip() == "1"


@pytest.mark.parametrize("screen", [60.0], indirect=True)
def test_a_resize_is_drawn_at_once(screen: MonitorWindow) -> None:
    wait_until(lambda: "supervisor  RUNNING" in screen.shown, 10, "the first frame")
    screen.tmux("resize-window", "-x", "190", "-y", "40")
    wait_until(lambda: "uptime" in screen.shown, 5, "the bigger frame")


def test_a_frame_writes_only_what_changed_and_nothing_when_nothing_did() -> None:
    reader, writer = os.pipe()
    try:
        screen = Screen(writer, colour=False)
        screen.draw([ink("first"), ink("second"), ink("third")])
        os.read(reader, 1 << 16)
        screen.draw([ink("first"), ink("other"), ink("third")])
        assert os.read(reader, 1 << 16).decode().replace("\x1b[0m", "") == "\x1b[2;1Hother\x1b[K"
        screen.draw([ink("first"), ink("other"), ink("third")])
        screen.draw([ink("x" * 300), ink("other"), ink("third")])  # the last cell of a full row stays
        assert os.read(reader, 1 << 16).decode() == "\x1b[1;1H" + "x" * 79 + "…\x1b[0m"
        screen.draw([ink("first")])
        assert os.read(reader, 1 << 16).decode().count("\x1b[K") == 3  # the rows below are emptied
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.timeout(30)
def test_a_terminal_that_takes_nothing_stops_nobody() -> None:
    terminal, ours = os.openpty()
    os.set_blocking(terminal, False)

    async def main() -> bytes:
        shown = b""
        with Screen(ours, colour=False) as screen:
            for number in range(2000):
                screen.draw([ink(f"{number} " + "x" * 60)] * 20)
            async with asyncio.timeout(10):
                while b"the last frame" not in shown:
                    screen.draw([ink("the last frame"), *[ink(f"{row}") for row in range(19)]])
                    try:
                        shown += os.read(terminal, 4096)
                    except BlockingIOError:
                        await asyncio.sleep(0.001)
        return shown

    try:
        shown = asyncio.run(main())
        assert shown.index(b"\x1b[20;1H0 xxx") < shown.index(b"the last frame")  # no frame is torn
    finally:
        os.close(terminal)
        os.close(ours)
