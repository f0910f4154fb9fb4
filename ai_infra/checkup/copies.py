"""Copies: HEAD in a folder of its own, so that what runs there cannot change the repository.

A copy is a repository that borrows the objects of the repository and has none of its settings, hooks or
filters; it has a `.git`, since many builds ask it for a version.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ai_infra.checkup.bounded import kill_marked
from ai_infra.checkup.git import Repo, run_git
from ai_infra.core.errors import SystemProblem

COPY_BYTES = 2_000_000_000  #: a larger HEAD is not copied
READ_BYTES = 1_000_000

_COPY = ".tests-copy"


class CopyTooLarge(SystemProblem):
    """HEAD does not fit beside itself."""


@contextmanager
def copy_of_head(repo: Repo, out: Path) -> Iterator[Path]:
    """A clone of HEAD in `out`, gone afterwards; what an earlier, killed run left goes first."""
    kill_marked(str(out.absolute()))
    homes = Path(tempfile.gettempdir()).glob(f"{home_prefix(str(out.absolute()))}*")
    for old in filter(_is_ours, [*out.glob(f"{_COPY}*"), *homes]):
        _remove(old)
    _check_room(repo, out)
    folder = Path(tempfile.mkdtemp(prefix=f"{_COPY}-", dir=out))
    try:
        copy = folder / (repo.name.strip("./") or "copy")
        _fill(repo, copy)
        yield copy
    finally:
        _remove(folder)


def home_prefix(run: str) -> str:
    """How the names of the home folders of a run's suites begin; short, since paths of sockets are."""
    return f"ai-{zlib.crc32(os.fsencode(run)):08x}-"


def list_head(repo: Repo) -> list[str]:
    """The paths in HEAD, sorted."""
    names = repo.git("ls-tree", "-r", "-z", "--name-only", "--full-tree", "HEAD").split(b"\0")
    return sorted(os.fsdecode(name) for name in names if name)


def read_text(path: Path) -> str:
    """The text of a regular file in a copy; empty for anything else, a symbolic link too."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            return file.read(READ_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _fill(repo: Repo, copy: Path) -> None:
    """Make a repository that borrows the objects.

    Not `git clone`, which refuses a repository of another user.
    """
    sort = repo.git("rev-parse", "--show-object-format").decode().strip()
    run_git(copy.parent, "init", "--quiet", "--template=", f"--object-format={sort}", str(copy))
    git = copy / ".git"
    (git / "objects" / "info").mkdir(exist_ok=True)
    objects = os.path.realpath(repo.common_dir / "objects")
    (git / "objects" / "info" / "alternates").write_bytes(os.fsencode(objects) + b"\n")
    if repo.shallow:
        shutil.copyfile(repo.common_dir / "shallow", git / "shallow")
    tags = repo.git("for-each-ref", "--format=create %(refname) %(objectname)", "refs/tags")
    run_git(copy, "update-ref", "--stdin", data=tags)
    run_git(copy, "checkout", "--quiet", "--detach", repo.head or "HEAD")


def _check_room(repo: Repo, out: Path) -> None:
    rows = repo.git("ls-tree", "-r", "-l", "-z", "--full-tree", "HEAD").split(b"\0")
    words = [row.split(b"\t", 1)[0].split() for row in rows if row]
    size = sum(int(word[3]) for word in words if len(word) == 4 and word[3].isdigit())
    free = shutil.disk_usage(out).free
    if size > COPY_BYTES or size > free / 2:
        raise CopyTooLarge(
            f"the tests need a copy of HEAD: {size / 1e6:,.0f} MB, with {free / 1e6:,.0f} MB free"
        )


def _is_ours(path: Path) -> bool:
    """A folder, no link to one, of this user: names in a shared folder can be anybody's."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _remove(folder: Path) -> None:
    """Remove a tree of ours, read-only folders in it too."""
    for path, _, _ in os.walk(folder):
        try:
            os.chmod(path, 0o700)
        except OSError:
            continue
    shutil.rmtree(folder, ignore_errors=True)
