"""Commands that outlived their parent: found by their mark, ended; everything else is left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ai_infra.core import orphans
from ai_infra.core.home import Home
from ai_infra.core.orphans import end_orphans, find_orphans
from ai_infra.testing import wait_until

#: Forks twice with a session of its own in between, as daemons do; its parent is then pid 1, or a reaper.
DAEMON = """
import os, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
os.chdir("/")
with open(sys.argv[1] + ".new", "w") as file: file.write(str(os.getpid()))
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(600)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


class Daemons:
    """Starts daemons, and ends at last those that nobody ended."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.pids: list[int] = []

    def start(self, env: dict[str, str]) -> int:
        file = self._folder / str(len(self.pids))
        subprocess.run([sys.executable, "-S", "-c", DAEMON, str(file)], env=env, check=True)
        wait_until(file.exists, 10, "the daemon runs")
        self.pids.append(int(file.read_text()))
        return self.pids[-1]

    def end(self) -> None:
        for pid in filter(alive, self.pids):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Daemons]:
    found = Daemons(tmp_path)
    yield found
    found.end()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def marks(home: Home, agent: str = "code", task: str | None = "t-1") -> dict[str, str]:
    env = {"AI_INFRA_HOME": str(home.root), "AI_INFRA_AGENT": agent}
    return env if task is None else {**env, "AI_INFRA_TASK_ID": task}


def test_a_daemon_with_the_mark_is_found_and_ended(home: Home, daemons: Daemons) -> None:
    pid = daemons.start(marks(home))
    assert find_orphans(home) == [pid]
    assert find_orphans(home, "code") == [pid]
    assert end_orphans(home, "code") == 1
    wait_until(lambda: not alive(pid), 5, "the daemon is gone")
    assert find_orphans(home) == []
    assert end_orphans(home, "code") == 0


def test_what_is_not_ours_to_end_is_left_alone(home: Home, daemons: Daemons) -> None:
    others = [
        daemons.start({}),
        daemons.start(marks(Home(home.root / "deeper"))),
        daemons.start(marks(Home(home.root.with_name("hom")))),
        daemons.start({**marks(home), "AI_INFRA_HOME": f"x{home.root}"}),
        daemons.start(marks(home, task=None)),  # a window of ours
        daemons.start({"NOTE": f"AI_INFRA_HOME={home.root} AI_INFRA_TASK_ID=t", "XAI_INFRA_TASK_ID": "t"}),
    ]
    ours = daemons.start(marks(home))
    assert find_orphans(home) == [ours]
    assert end_orphans(home) == 1
    assert [alive(pid) for pid in others] == [True] * len(others)


def test_another_agents_commands_are_left_alone(home: Home, daemons: Daemons) -> None:
    code, codex = daemons.start(marks(home)), daemons.start(marks(home, agent="codex"))
    assert end_orphans(home, "code") == 1
    assert alive(codex)
    assert not alive(code)
    assert end_orphans(home) == 1
    wait_until(lambda: not alive(codex), 5, "without a name, all go")


def test_the_one_who_asks_is_never_found(home: Home) -> None:
    code = (
        "import sys; from pathlib import Path; from ai_infra.core.home import Home\n"
        "from ai_infra.core.orphans import end_orphans; print(end_orphans(Home(Path(sys.argv[1]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(home.root)],
        env=marks(home),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "0\n"


def test_what_forks_while_it_is_ended_is_ended_with_all_its_children(home: Home, daemons: Daemons) -> None:
    text = "while :; do setsid sleep 600 & sleep 0.02; done"
    process = subprocess.Popen(["bash", "-c", text], env={**marks(home), "PATH": os.environ["PATH"]})
    try:
        wait_until(lambda: len(find_orphans(home)) > 5, 10, "it has forked")
        assert end_orphans(home) >= 5
        assert find_orphans(home) == []
    finally:
        process.kill()
        process.wait()


# -- while the parent lives ---------------------------------------------------------------------------------

#: Adopts (or not), starts what the words say in a session of its own, and one child in its own session.
PARENT = """
import subprocess, sys
from pathlib import Path
from ai_infra.core import orphans
from ai_infra.testing import wait_until
if sys.argv[1] == "adopt":
    orphans.adopt_orphans()
own = subprocess.Popen(["sleep", "600"])
command = subprocess.Popen(["bash", "-c", sys.argv[3]], start_new_session=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
wait_until(Path(sys.argv[2]).exists)
command.wait()
first, second = orphans.end_children(), orphans.end_children()
print(first, second, own.poll())
own.kill()
own.wait()
"""
HIDE = "env -i setsid sh -c 'echo $$ > {0}.new; mv {0}.new {0}; exec sleep 600' &"


def parent(adopt: str, file: Path, text: str) -> list[str]:
    """What a process ended of what its command left, at once and a second time; and its own child's state."""
    done = subprocess.run(
        [sys.executable, "-c", PARENT, adopt, str(file), text.format(file)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return done.stdout.split()


def test_a_daemon_that_hid_its_mark_is_ended_by_the_one_who_adopted_it(tmp_path: Path) -> None:
    ended, again, own = parent("adopt", tmp_path / "pid", HIDE)
    assert int(ended) >= 1  # what it had not reaped itself counts, too
    assert (again, own) == ("0", "None")
    assert not alive(int((tmp_path / "pid").read_text()))


def test_without_adoption_it_is_lost_from_sight(tmp_path: Path) -> None:
    try:
        assert parent("no", tmp_path / "pid", HIDE) == ["0", "0", "None"]
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_a_tree_of_daemons_is_ended_to_the_last(tmp_path: Path) -> None:
    branch = "setsid sh -c 'setsid sleep 600 & setsid sleep 600 & touch {0}.$1; wait' sh"
    ready = "[ -e {0}.1 -a -e {0}.2 -a -e {0}.3 ]"
    tree = f"{branch} 1 & {branch} 2 & {branch} 3 & until {ready}; do sleep 0.01; done; touch {{0}}"
    ended, again, own = parent("adopt", tmp_path / "done", tree)
    assert int(ended) >= 9
    assert (again, own) == ("0", "None")


def test_nothing_left_is_nothing_ended(tmp_path: Path) -> None:
    assert parent("adopt", tmp_path / "done", "touch {0}") == ["0", "0", "None"]


# -- limits -------------------------------------------------------------------------------------------------


def test_what_cannot_be_ended_does_not_hold_us_for_ever(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        orphans, "find_orphans", lambda home, agent=None: [2**22 + 1]
    )  # no such pid: kill fails
    monkeypatch.setattr(orphans, "_RETRY_S", 0.001)
    began = time.monotonic()
    assert end_orphans(home) == 1
    assert time.monotonic() - began < 5
