"""The log of a process: one JSON object a line, whatever is in it and however full the disk is."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_infra.core.events import EventLog, text_of

WITH_LITTLE_ROOM = """
import resource, sys
from pathlib import Path
from ai_infra.core.events import EventLog
log = EventLog(Path(sys.argv[1]), "code", 10**9)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
for i in range(20):
    log("said", number=i)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log("said", number=20)
log("said", number=21)
"""


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def log_to(path: Path, max_bytes: int = 10**9) -> EventLog:
    return EventLog(path, "code", max_bytes)


def test_one_line_per_event(tmp_path: Path) -> None:
    log = log_to(tmp_path / "code.jsonl")
    log("started", pid=7)
    log("failed", level="error", reason="no disk", path=tmp_path)
    log.close()
    first, second = lines(tmp_path / "code.jsonl")
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("at"))
    assert first == {"level": "info", "process": "code", "event": "started", "pid": 7}
    assert (second["level"], second["reason"], second["path"]) == ("error", "no disk", str(tmp_path))
    assert stat.S_IMODE((tmp_path / "code.jsonl").stat().st_mode) == 0o600


def test_what_is_shown_is_what_is_kept(tmp_path: Path) -> None:
    shown: list[dict[str, Any]] = []
    log = EventLog(tmp_path / "x.jsonl", "code", 10**9, shown.append)
    log("started", pid=7)
    assert shown == lines(tmp_path / "x.jsonl")


def test_a_later_event_opens_a_closed_log_again(tmp_path: Path) -> None:
    log = log_to(tmp_path / "x.jsonl")
    for _ in range(3):
        log("said")
        log.close()
        log.close()
    assert len(lines(tmp_path / "x.jsonl")) == 3


HOSTILE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary() | st.dates()
    | st.text(st.characters(codec=None)),  # lone surrogates, controls, line separators
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@settings(deadline=None, max_examples=50)
@given(values=st.lists(HOSTILE, min_size=1, max_size=5))
def test_no_value_breaks_a_line(tmp_path_factory: pytest.TempPathFactory, values: list[object]) -> None:
    path = tmp_path_factory.getbasetemp() / "hostile.jsonl"
    path.unlink(missing_ok=True)
    log = log_to(path)
    for value in values:
        log("said", value=value)
    log.close()
    assert len(lines(path)) == len(values)
    assert path.read_bytes().isascii()


@pytest.mark.parametrize("value", [{("a", 1): 2}, {b"a": 1}])
def test_a_key_that_is_no_text_breaks_nothing(tmp_path: Path, value: object) -> None:
    log_to(tmp_path / "x.jsonl")("said", value=value)


def test_a_number_that_json_does_not_know(tmp_path: Path) -> None:
    log_to(tmp_path / "x.jsonl")("said", value=float("nan"))
    assert "NaN" not in (tmp_path / "x.jsonl").read_text()


# -- rotation -----------------------------------------------------------------------------------------------


def test_a_log_is_turned_over_by_size_and_one_old_file_is_kept(tmp_path: Path) -> None:
    log = log_to(tmp_path / "code.jsonl", max_bytes=1000)
    for i in range(103):
        log("said", number=i)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["code.1.jsonl", "code.jsonl"]
    old, new = lines(tmp_path / "code.1.jsonl"), lines(tmp_path / "code.jsonl")
    numbers = [line["number"] for line in old + new]
    assert numbers == list(range(numbers[0], 103))
    assert 1000 < (tmp_path / "code.1.jsonl").stat().st_size < 1100
    assert (tmp_path / "code.jsonl").stat().st_size <= 1000


def test_a_line_longer_than_the_whole_log_is_kept_whole(tmp_path: Path) -> None:
    log = log_to(tmp_path / "code.jsonl", max_bytes=1000)
    log("said", text="x" * 5000)
    log("said", text="y")
    assert len(lines(tmp_path / "code.1.jsonl")[0]["text"]) == 5000
    assert [line["text"] for line in lines(tmp_path / "code.jsonl")] == ["y"]


# -- a full disk --------------------------------------------------------------------------------------------


def test_a_full_disk_stops_nothing() -> None:
    shown: list[dict[str, Any]] = []
    log = EventLog(Path("/dev/full"), "code", 10**9, shown.append)
    for _ in range(3):
        log("said")
    log.close()
    assert [line["event"] for line in shown] == ["said"] * 3


def test_a_folder_that_is_gone_stops_nothing_and_the_loss_is_said_once(tmp_path: Path) -> None:
    log = log_to(tmp_path / "home" / "logs" / "code.jsonl")
    for _ in range(3):
        log("said")
    (tmp_path / "home").mkdir()
    log("said", number=4)
    log("said", number=5)
    told = [
        (line["event"], line.get("count"), line.get("number"))
        for line in lines(tmp_path / "home/logs/code.jsonl")
    ]
    assert told == [("log_lines_lost", 3, 4), ("said", None, 4), ("said", None, 5)]


def test_a_line_cut_short_by_a_full_disk_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "code.jsonl"
    subprocess.run([sys.executable, "-c", WITH_LITTLE_ROOM, str(path)], check=True)
    found = []
    for line in path.read_text().split("\n"):
        try:
            found.append(json.loads(line))
        except ValueError:
            continue  # the cut one
    kept = [line["number"] for line in found if line["event"] == "said"]
    assert kept[-2:] == [20, 21]
    lost = next(line["count"] for line in found if line["event"] == "log_lines_lost")
    assert len(kept) + lost == 22


def test_a_folder_that_a_person_removed_comes_back_but_not_a_home(tmp_path: Path) -> None:
    folder = tmp_path / "home" / "logs"
    folder.mkdir(parents=True)
    log = log_to(folder / "code.jsonl")
    log("before")
    shutil.rmtree(folder)
    for number in range(2):  # the first goes into the file that is gone
        log("said", number=number)
    assert [line["number"] for line in lines(folder / "code.jsonl")] == [1]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    shutil.rmtree(folder.parent)
    for number in range(2):
        log("said", number=number)
    assert not folder.parent.exists()
    log.close()


def test_a_log_that_a_person_removed_comes_back(tmp_path: Path) -> None:
    log = log_to(tmp_path / "code.jsonl")
    log("said", number=1)
    os.unlink(tmp_path / "code.jsonl")
    log("said", number=2)
    log("said", number=3)
    assert [line["number"] for line in lines(tmp_path / "code.jsonl")][-1] == 3


def test_times_are_utc_with_milliseconds() -> None:
    assert text_of(0) == "1970-01-01T00:00:00.000Z"
    assert text_of(1_700_000_000.1239) == "2023-11-14T22:13:20.123Z"
