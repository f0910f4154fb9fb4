"""The scratch workspace: made, entered, left, cleaned by age; links lead nowhere."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from ai_infra.agents.scratch import Scratch
from ai_infra.core.errors import SystemProblem
from ai_infra.core.home import Home
from ai_infra.core.ids import AgentName, TaskId
from ai_infra.core.settings import AgentSettings

TASK = TaskId("t-1")
DAY_S = 86400.0


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    agent = AgentSettings(name=AgentName("data"), folders=("exports", "a_b"))
    found = Scratch(Home(tmp_path), agent)
    found.ensure()
    return found


def age(path: Path, days: float) -> Path:
    """Make a file, folder or link look as if it was last changed so long ago."""
    then = time.time() - days * DAY_S
    os.utime(path, (then, then), follow_symlinks=False)
    return path


def make(path: Path, days: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    return age(path, days)


def test_folders_are_made_private_and_twice_is_safe(scratch: Scratch) -> None:
    make(scratch.root / "exports" / "kept")
    scratch.ensure()
    assert sorted(p.name for p in scratch.root.iterdir()) == ["a_b", "cache", "exports", "temp", "working"]
    assert {stat.S_IMODE(p.stat().st_mode) for p in scratch.root.iterdir()} == {0o700}
    assert (scratch.root / "exports" / "kept").exists()
    assert scratch.temp == scratch.root / "temp"


def test_agents_have_folders_of_their_own(tmp_path: Path) -> None:
    one, other = (Scratch(Home(tmp_path), AgentSettings(name=AgentName(n))) for n in ("code", "qa"))
    assert one.root.parent == other.root.parent == tmp_path / "workspace" / ".agent-scratch"
    assert one.root != other.root


def test_a_task_finds_what_an_earlier_attempt_left(scratch: Scratch) -> None:
    folder = scratch.enter(TASK)
    assert folder == scratch.root / "working" / "t-1"
    make(folder / "half")
    scratch.leave(TASK)
    assert (scratch.enter(TASK) / "half").exists()


def test_an_empty_folder_goes_when_the_task_leaves(scratch: Scratch) -> None:
    folder = scratch.enter(TASK)
    scratch.leave(TASK)
    scratch.leave(TASK)
    assert not folder.exists()


def test_what_is_in_the_way_is_said(scratch: Scratch) -> None:
    make(scratch.root / "working" / "t-1")
    with pytest.raises(SystemProblem, match="t-1: File exists"):
        scratch.enter(TASK)
    other = Scratch(Home(scratch.root / "working" / "t-1"), AgentSettings(name=AgentName("x")))
    with pytest.raises(SystemProblem, match="Not a directory"):
        other.ensure()


def test_old_files_go_and_new_ones_stay(scratch: Scratch) -> None:
    old, new = make(scratch.temp / "old", days=1.1), make(scratch.temp / "new", days=0.9)
    assert scratch.clean_temp(DAY_S) == 1
    assert (old.exists(), new.exists()) == (False, True)
    assert scratch.clean_temp(DAY_S) == 0


def test_a_folder_goes_when_all_in_it_is_old(scratch: Scratch) -> None:
    make(scratch.temp / "old" / "deep" / "er" / "file", days=9)
    for folder in ("old/deep/er", "old/deep", "old"):
        age(scratch.temp / folder, 9)
    make(scratch.temp / "used" / "deep" / "new", days=0)
    make(scratch.temp / "used" / "old", days=9)
    age(scratch.temp / "used" / "deep", 9)
    age(scratch.temp / "used", 9)
    (scratch.temp / "empty").mkdir()
    age(scratch.temp / "empty", 9)
    assert scratch.clean_temp(DAY_S) == 2
    assert sorted(p.name for p in scratch.temp.iterdir()) == ["used"]
    assert (scratch.temp / "used" / "old").exists()


def test_links_are_removed_and_never_followed(scratch: Scratch, tmp_path: Path) -> None:
    outside = make(tmp_path / "outside" / "file", days=9)
    age(outside.parent, 9)
    for name, target in {"file": outside, "folder": outside.parent, "gone": tmp_path / "nothing"}.items():
        (scratch.temp / name).symlink_to(target)
        age(scratch.temp / name, 9)
    inner = scratch.temp / "deep" / "link"
    inner.parent.mkdir()
    inner.symlink_to(outside.parent)
    age(inner, 9)
    age(inner.parent, 9)
    assert scratch.clean_temp(DAY_S) == 4
    assert list(scratch.temp.iterdir()) == []
    assert outside.exists()


def test_a_new_link_stays_however_old_its_target_is(scratch: Scratch, tmp_path: Path) -> None:
    (scratch.temp / "link").symlink_to(make(tmp_path / "old", days=9))
    assert scratch.clean_temp(DAY_S) == 0


def test_other_folders_are_not_cleaned(scratch: Scratch) -> None:
    kept = [make(scratch.root / folder / "old", days=99) for folder in ("cache", "working", "exports")]
    scratch.clean_temp(0)
    assert all(path.exists() for path in kept)


def test_temp_that_is_gone_or_a_link_to_elsewhere(scratch: Scratch, tmp_path: Path) -> None:
    scratch.temp.rmdir()
    assert scratch.clean_temp(DAY_S) == 0


def test_a_temp_that_a_task_made_a_link_is_not_followed(scratch: Scratch, tmp_path: Path) -> None:
    outside = make(tmp_path / "outside" / "file", days=9)
    scratch.temp.rmdir()
    scratch.temp.symlink_to(outside.parent)
    scratch.clean_temp(DAY_S)
    assert outside.exists()


def test_names_that_are_hard_to_type(scratch: Scratch) -> None:
    for name in ("-rf", "a\nb", " ", "*"):
        make(scratch.temp / name, days=9)
    with open(os.path.join(os.fsencode(scratch.temp), b"\xff"), "wb"):
        pass
    os.utime(os.path.join(os.fsencode(scratch.temp), b"\xff"), (0, 0))
    assert scratch.clean_temp(DAY_S) == 5
    assert list(scratch.temp.iterdir()) == []
