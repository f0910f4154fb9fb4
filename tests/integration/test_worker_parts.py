"""What a worker is made of, with real children and terminals: searches, results, the way to its window."""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ai_infra.agents import patterns
from ai_infra.agents.checks import Checked, Ran, check_all
from ai_infra.agents.commands import Command, CommandEnd
from ai_infra.agents.output import SEARCHED_BYTES, OutputLog
from ai_infra.agents.patterns import Match, search
from ai_infra.agents.result import MAX_CODES, result_of
from ai_infra.tasks.spec import dump_json
from ai_infra.tasks.task import MAX_RESULT_BYTES, Expect
from ai_infra.testing import wait_until


@pytest.fixture
def output(tmp_path: Path) -> Iterator[OutputLog]:
    found = OutputLog(tmp_path / "output.log", 1000, lambda chunk: None)
    yield found
    found.close()


# -- searching ----------------------------------------------------------------------------------------------


def find(pattern: str, text: bytes) -> Match:
    async def main() -> Match:
        return await search(pattern, text, asyncio.Event())

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("12 passed", "12 passed"),  # this and the next are plain words
        ("^12 passed$", "12 passed"),
        ("^passed", None),
        (r"^\d+ passed$", "12 passed"),
        (r"(?i)PASSED", "passed"),
        (r"(?s)12.*end", "12 passed\nü the end"),
        ("[ü] the", "ü the"),
        ("x*", ""),
        (r"\bfailed\b", None),
        ("\ud800+", None),
    ],
)
def test_here_and_apart_the_same_is_found(pattern: str, found: str | None) -> None:
    assert find(pattern, "12 passed\nü the end\n".encode()) == Match(found)


def test_output_that_is_no_text_is_searched_as_what_it_is_shown_as() -> None:
    assert find(r"b\w+", b"\xff\xfe\xe2\x82 before\xff") == Match("before")


def test_a_search_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "SEARCH_S", 0.3)
    began_s = time.monotonic()
    assert find("(a+)+$", b"a" * 60 + b"!") == Match(None, "pattern took too long (0.3 s)")
    assert time.monotonic() - began_s < 5
    assert not [line for line in children() if "re.search" in line]


def test_a_search_that_cannot_be_done_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find("(", b"").problem.startswith("pattern could not be searched: ")
    assert "unterminated subpattern" in find("(", b"").problem


def children() -> list[str]:
    found = subprocess.run(
        ["ps", "-o", "args=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=False
    )
    return found.stdout.splitlines()


def test_the_end_of_a_long_output_is_searched_and_a_miss_says_so(output: OutputLog, tmp_path: Path) -> None:
    for chunk in (b"first ", *[b"." * 65536] * 40, b"the last word\n"):
        output.write(chunk)
    output.path.write_text("a forged first word")

    async def run(command: Command) -> int:
        return 0

    async def main() -> list[Checked]:
        ran = Ran(exit_codes=[0], output=output, cwd=tmp_path, run=run, ended=asyncio.Event())
        return await check_all([Expect(output_matches=w) for w in ("last word$", "first")], ran)

    _, last, first = asyncio.run(main())
    assert last.ok
    assert not first.ok
    assert first.evidence == f"not found in the last {SEARCHED_BYTES} of {output.total_bytes} bytes of output"
    assert len(output.end()) == SEARCHED_BYTES
    assert len(output._end) <= 2 * SEARCHED_BYTES + 65536


def test_a_pipe_in_the_place_of_a_file_holds_nobody(output: OutputLog, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "r.json")

    async def run(command: Command) -> int:
        return 0

    async def main() -> list[Checked]:
        ran = Ran(exit_codes=[0], output=output, cwd=tmp_path, run=run, ended=asyncio.Event())
        return await check_all([Expect(file="r.json", json_path="a", equals=1)], ran)

    _, found = asyncio.run(main())
    assert (found.ok, found.evidence) == (False, "not a plain file")


# -- results ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("commands", [0, 1, 100, MAX_CODES, 60_000])
@pytest.mark.parametrize("letter", ["x", "ü", "😀", "\0"])
def test_a_result_always_fits_and_keeps_the_codes(output: OutputLog, letter: str, commands: int) -> None:
    output.write((letter * 10_000).encode())
    ends = [CommandEnd(exit_code=-(i % 64), duration_s=12345.678) for i in range(commands)]
    said = letter * 2000
    checks = [Checked(what=said, ok=False, evidence=said)] * 80
    result = result_of(ends, checks, output, 1.0)
    assert len(dump_json(result)) <= MAX_RESULT_BYTES
    assert result["exit_codes"] == [end.exit_code for end in ends[:MAX_CODES]]
    assert len(result["checks"]) == 50
    assert result["output_bytes"] == output.total_bytes


def test_a_small_result_is_whole(output: OutputLog) -> None:
    output.write(b"said\n")
    ends = [CommandEnd(exit_code=3, duration_s=0.1)]
    assert result_of(ends, [Checked(what="w", ok=True, evidence="e")], output, 0.25) == {
        "exit_codes": [3],
        "durations_s": [0.1],
        "checks": [{"what": "w", "ok": True, "evidence": "e"}],
        "output_tail": "said\n",
        "output_bytes": 5,
        "log": str(output.path),
        "duration_s": 0.25,
    }


# -- the window ---------------------------------------------------------------------------------------------

#: An agent whose terminal takes nothing: it says more than fits, tells that it lives, and goes on when asked.
AGENT = """
import asyncio, os, sys, time
from pathlib import Path
from ai_infra.dashboard.pane import AgentPane
from ai_infra.testing import wait_until_async

lines, folder = int(sys.argv[1]), Path(sys.argv[2])

async def main():
    pane = AgentPane(colour=False, lines_per_s=10**9)
    began = time.process_time()
    for number in range(lines):
        pane.output(b"line %d %s\\n" % (number, b"." * 90))
        await asyncio.sleep(0)
    await asyncio.sleep(0.3)  # stalled: this costs nothing
    (folder / "cpu").write_text(str(time.process_time() - began))
    (folder / "alive").touch()
    async def asked(): return (folder / "go").exists()
    await wait_until_async(asked, 20)
    await wait_until_async(lambda: asyncio.sleep(0, not pane._emit.__self__._waiting), 20)
    pane.output(b"afterwards\\n")
    (folder / "flags").write_text(str(os.get_blocking(1)))

asyncio.run(main())
"""


@pytest.mark.parametrize(("lines", "dropped"), [(300, False), (5000, True)])
def test_a_window_that_stalls_does_not_hold_its_agent(tmp_path: Path, lines: int, dropped: bool) -> None:
    ours, theirs = os.openpty()
    agent = subprocess.Popen([sys.executable, "-c", AGENT, str(lines), str(tmp_path)], stdout=theirs)
    os.close(theirs)
    try:
        wait_until(lambda: (tmp_path / "alive").exists(), 20, "the agent lives")
        assert float((tmp_path / "cpu").read_text()) < 2
        (tmp_path / "go").touch()
        said = read_all(ours).replace("\r", "").splitlines()
    finally:
        agent.kill()
        code = agent.wait()
        os.close(ours)
    assert code == 0
    assert (tmp_path / "flags").read_text() == "True"
    numbers = [int(line.split()[2]) for line in said if line.startswith("  │ line")]
    assert numbers == list(range(len(numbers)))
    assert said[-1] == "  │ afterwards"
    assert (len(numbers) < lines) is dropped
    if dropped:
        assert said[-2] == f"… {lines - len(numbers)} lines not shown, this window was too slow"


def read_all(fd: int) -> str:
    """What a terminal's program wrote, until it ended."""
    data, deadline_s = b"", time.monotonic() + 30
    while time.monotonic() < deadline_s:
        if select.select([fd], [], [], 0.1)[0]:
            try:
                data += os.read(fd, 65536)
            except OSError:  # everybody on the other side is gone
                return data.decode()
    raise AssertionError("it did not end")


def test_a_closed_window_and_a_file_are_no_trouble(tmp_path: Path) -> None:
    text = "from ai_infra.dashboard.pane import AgentPane\nfor _ in range(2): AgentPane(colour=False).idle()"
    with open(tmp_path / "file", "a") as file:
        subprocess.run([sys.executable, "-c", text], stdout=file, check=True, timeout=20)
        subprocess.run([sys.executable, "-c", text], stdout=file, check=True, timeout=20)
    assert (tmp_path / "file").read_text().count("waiting for work") == 4
    reading, writing = os.pipe()
    os.close(reading)
    subprocess.run([sys.executable, "-c", text], stdout=writing, check=True, timeout=20)
    os.close(writing)
