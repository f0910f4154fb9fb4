"""The home: private, complete, and plain words when it cannot be."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ai_infra.core.errors import SystemProblem
from ai_infra.core.home import FOLDERS, Home

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
ENSURE_AS_NOBODY = """
import os, sys
from pathlib import Path
from ai_infra.core.home import Home
os.setgroups([]), os.setgid(65534), os.setuid(65534)
Home(Path(sys.argv[1])).ensure()
"""


def ensure_as_nobody(root: Path) -> str:
    """What a plain user is told; the last line of stderr."""
    done = subprocess.run(
        [sys.executable, "-c", ENSURE_AS_NOBODY, str(root)], capture_output=True, text=True, check=False
    )
    return done.stderr.strip().splitlines()[-1] if done.stderr else ""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_from_the_environment() -> None:
    assert Home.from_env({"AI_INFRA_HOME": "/srv/x", "HOME": "/home/me"}).root == Path("/srv/x")
    assert Home.from_env({"HOME": "/home/me"}).root == Path("/home/me/.ai-infra")
    assert Home.from_env({"AI_INFRA_HOME": "", "HOME": "/home/me"}).root == Path("/home/me/.ai-infra")
    assert Home.from_env({"AI_INFRA_HOME": "/srv/../srv/./x/"}).root == Path("/srv/x")
    assert Home.from_env({"AI_INFRA_HOME": "x"}).root == Path.cwd() / "x"
    assert Home.from_env({}).root.is_absolute()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_everything_is_made_private(tmp_path: Path, umask: int) -> None:
    home = Home(tmp_path / "deep" / "home")
    old = os.umask(umask)
    try:
        home.ensure()
        home.ensure()
    finally:
        os.umask(old)
    assert {str(path.relative_to(home.root)) for path in home.root.rglob("*")} == set(FOLDERS)
    assert {mode(path) for path in (home.root, *home.root.rglob("*"))} == {0o700}


def test_a_home_that_others_could_read_is_closed(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o755)
    Home(tmp_path / "home").ensure()
    assert mode(tmp_path / "home") == 0o700


def test_names_inside(tmp_path: Path) -> None:
    home = Home(Path("/h"))
    assert home.redis_socket == Path("/h/run/redis.sock")
    assert home.scratch("code") == Path("/h/workspace/.agent-scratch/code")
    assert home.task_logs == Path("/h/logs/tasks")
    assert home.workflows == Path("/h/workspace/workflows")


def test_the_longest_path_whose_sockets_still_work(tmp_path: Path) -> None:
    room = 107 - len(os.fsencode(tmp_path / "run" / "redis.sock")) - 1
    Home(tmp_path / ("x" * room)).ensure()
    with pytest.raises(
        SystemProblem, match=r"too long for unix sockets .* set AI_INFRA_HOME to a shorter one"
    ):
        Home(tmp_path / ("x" * (room + 1))).ensure()
    with pytest.raises(SystemProblem, match="too long"):  # bytes count, not characters
        Home(tmp_path / ("ü" * (room // 2 + 1))).ensure()


def test_a_file_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(SystemProblem, match="is not a folder; set AI_INFRA_HOME to one"):
        Home(tmp_path / "home").ensure()
    with pytest.raises(SystemProblem, match="Not a directory"):
        Home(tmp_path / "home" / "below").ensure()


def test_a_file_in_the_place_of_a_folder_inside(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("")
    with pytest.raises(SystemProblem, match=f"{tmp_path}/logs: File exists"):
        Home(tmp_path).ensure()


def test_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "home").symlink_to(tmp_path / "gone")
    with pytest.raises(SystemProblem, match="home: File exists"):
        Home(tmp_path / "home").ensure()


def test_a_link_to_a_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o755)
    (tmp_path / "home").symlink_to(tmp_path / "real")
    Home(tmp_path / "home").ensure()
    assert mode(tmp_path / "real") == 0o700


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="aih-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@as_root
def test_the_home_of_another_user(open_folder: Path) -> None:
    (open_folder / "home").mkdir()
    told = ensure_as_nobody(open_folder / "home")
    assert told.endswith("home: belongs to another user; set AI_INFRA_HOME to a folder of yours")


@as_root
def test_a_home_where_nothing_may_be_made(open_folder: Path) -> None:
    told = ensure_as_nobody(open_folder / "home")
    assert told.endswith("home: permission denied; it must belong to the user who runs ai-infra")


@as_root
def test_a_home_below_a_folder_that_is_closed(open_folder: Path) -> None:
    (open_folder / "closed").mkdir(mode=0o700)
    told = ensure_as_nobody(open_folder / "closed" / "home")
    assert told.startswith("ai_infra.core.errors.SystemProblem")


def test_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Home(tmp_path).is_full()
    assert not Home(tmp_path / "nothing").is_full()
    monkeypatch.setattr("ai_infra.core.home.ROOM_BYTES", 10**18)
    assert Home(tmp_path).is_full()
