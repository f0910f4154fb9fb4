"""The benchmarks run, say what they measured, and leave nothing behind; the figures are not judged here."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from ai_infra.testing import wait_until

SCRIPTS = Path(__file__).parents[2] / "scripts"
FACTS = {"cpu", "cores", "memory", "kernel", "python", "tmux", "redis", "load before"}

pytestmark = pytest.mark.bench


@pytest.fixture
def place() -> Iterator[Path]:
    """Where a benchmark puts its installations; short, for the names of sockets."""
    with TemporaryDirectory(prefix="ait-", dir="/tmp") as folder:
        yield Path(folder)
        for pid in processes_of(Path(folder)):  # where a test has failed
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def start(place: Path, script: str, *words: str) -> subprocess.Popen[str]:
    env = {**os.environ, "TMPDIR": str(place)}
    return subprocess.Popen(
        [sys.executable, SCRIPTS / script, *words],
        env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def measured(place: Path, script: str, *words: str) -> Any:
    """What the script says as JSON; it must end well and tidy up."""
    out, err = start(place, script, "--rounds", "1", "--json", *words).communicate(timeout=110)
    assert err == ""
    found = json.loads(out)
    assert set(found["machine"]) == FACTS
    assert str(place) not in out
    for row in found["measures"]:
        assert row["min"] <= row["median"] <= row["max"], row
        assert (row["verdict"] is None) == (row["budget"] is None), row
    assert_nothing_is_left(place)
    return found


def assert_nothing_is_left(place: Path) -> None:
    assert list(place.iterdir()) == []
    assert processes_of(place) == []


def processes_of(place: Path) -> list[int]:
    """Those whose environment names the place, or who are there: redis-server overwrites its environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            at = f"{os.readlink(folder / 'cwd')}/"
            if f"{place}/".encode() in (folder / "environ").read_bytes() or at.startswith(f"{place}/"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def budgets_of(found: Any) -> int:
    return sum(row["budget"] is not None for row in found["measures"])


def test_boot(place: Path) -> None:
    found = measured(place, "bench_boot.py")
    assert "redis" in found["windows"]
    assert budgets_of(found) == 6


def test_cli(place: Path) -> None:
    found = measured(place, "bench_cli.py", "--tasks", "20")
    assert found["tasks"] == 20
    assert budgets_of(found) == 4


def test_footprint(place: Path) -> None:
    found = measured(place, "bench_footprint.py", "--seconds", "3", "--settle", "1")
    names = [row["process"] for row in found["processes"]]
    assert {"supervisor", "code", "redis: redis-server", "(tmux server)"} <= set(names)
    assert all(row["rss_mb"] > row["uss_mb"] > 0 for row in found["processes"])
    assert found["redis_commands_per_s"]["fcall"] > 0


def test_retention(place: Path) -> None:
    found = measured(place, "bench_retention.py", "--tasks", "3000", "--keep", "500")
    assert found["tasks"] == 3000
    assert budgets_of(found) == 2


def test_tasks(place: Path) -> None:
    """We and the floor; what must be installed first is measured by hand only."""
    few = ("--engines", "ours,lua loop", "--tasks", "50", "--seconds", "1", "--million", "200", "--kill")
    rows = "drain,always,batch,waits,graphs,submit,idle,death,million"
    with TemporaryDirectory() as folder:
        save = Path(folder) / "found.json"
        found = measured(place, "bench_tasks.py", *few, "--only", rows, "--save", str(save))
        assert json.loads(save.read_text())["measures"] == found["measures"]
    assert found["failed"] == {}
    assert budgets_of(found) == 12
    assert set(found["engines"]["no-ops/s"]) == {"ours", "lua loop"}
    assert found["engines"]["idle commands/s"]["ours"][0] < 10
    by_name = {row["name"]: row["median"] for row in found["measures"]}
    assert by_name["fsyncs of 50 submits of one"] == 50


def test_tasks_names_an_engine_it_does_not_know(place: Path) -> None:
    process = start(place, "bench_tasks.py", "--engines", "sidekiq")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "no engine 'sidekiq'; there are: ours" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("script", ["bench_boot.py", "bench_footprint.py"])
def test_interrupted_it_leaves_nothing(place: Path, script: str, number: signal.Signals) -> None:
    process = start(place, script)
    wait_until(lambda: len(processes_of(place)) > 5, 30, "a session comes up")
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    assert_nothing_is_left(place)


def test_interrupted_tasks_leave_nothing(place: Path) -> None:
    process = start(place, "bench_tasks.py", "--engines", "ours", "--only", "idle")
    wait_until(lambda: len(processes_of(place)) > 2, 30, "redis, a worker and one that submits are there")
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    assert_nothing_is_left(place)


def test_what_cannot_run_is_said(place: Path) -> None:
    """A tmux that refuses everything."""
    (place / "bin").mkdir()
    broken = place / "bin" / "tmux"
    broken.write_text("#!/bin/sh\necho tmux 3.3a\nexit 1\n")
    broken.chmod(0o755)
    path = f"{place / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, SCRIPTS / "bench_boot.py", "--rounds", "1"],
        env={**os.environ, "TMPDIR": str(place), "PATH": path},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("bench_boot.py: `")
    assert "Traceback" not in done.stderr
    assert [path.name for path in place.iterdir()] == ["bin"]
