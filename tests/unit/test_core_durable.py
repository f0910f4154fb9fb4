"""Durable files: old content or new, whatever dies in between; and locks that the kernel gives back."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ai_infra.core import durable
from ai_infra.core.durable import FileLock, is_locked, read_json, system_problem, write_json, write_text
from ai_infra.core.errors import SystemProblem
from ai_infra.testing import wait_until

WRITE_FOR_EVER = """
import sys
from pathlib import Path
from ai_infra.core.durable import write_bytes
print("ready", flush=True)
while True:
    for letter in b"ab":
        write_bytes(Path(sys.argv[1]), bytes([letter]) * 300_000)
"""
HOLD = """
import sys, subprocess
from pathlib import Path
from ai_infra.core.durable import FileLock
lock = FileLock(Path(sys.argv[1]))
assert lock.try_acquire()
child = subprocess.Popen(["sleep", "600"], pass_fds=[lock.fileno()] if sys.argv[2] == "pass" else [])
print(child.pid, flush=True)
sys.stdin.read()
"""


@contextmanager
def python(code: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that has said its first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


# -- files --------------------------------------------------------------------------------------------------


def test_kill_9_at_any_moment_leaves_no_torn_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * 300_000)
    seen = set()
    for _ in range(5):
        with python(WRITE_FOR_EVER, str(path)) as writer:
            assert first_line(writer) == "ready"
            first = path.stat().st_ino
            wait_until(lambda first=first: path.stat().st_ino != first, 10, "the file was replaced")
            for _ in range(20):  # a reader at any moment, too
                content = path.read_bytes()
                assert (len(content), len(set(content))) == (300_000, 1)
                seen.add(content[:1])
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        content = path.read_bytes()
        assert (len(content), len(set(content))) == (300_000, 1)
    assert seen == {b"a", b"b"}


def test_what_a_killed_writer_left_is_swept_by_a_later_one(tmp_path: Path) -> None:
    old, young = (tmp_path / f".file.{token}" for token in ("0123abcd", "4567abcd"))
    others = [tmp_path / name for name in (".file.json.0123abcd", ".file.txt", ".other.0123abcd")]
    for path in (old, young, *others):
        path.write_text("torn")
        os.utime(path, None if path == young else (0, 0))
    write_text(tmp_path / "file", "whole")
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "file", young, *others])


def test_a_file_is_the_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        write_text(tmp_path / "file", "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def test_a_failed_write_keeps_the_old_content_and_leaves_nothing_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SystemProblem, match=r"file: the disk is full; free some space"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SystemProblem, match="No such file or directory"):
        write_text(tmp_path / "nothing" / "file", "x")


def test_a_link_is_replaced_and_what_it_points_to_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "target").read_text() == "kept"
    assert not (tmp_path / "link").is_symlink()


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_system_problem_names_the_path_and_what_is_wrong(number: int, said: str) -> None:
    told = str(system_problem(Path("/srv/x"), OSError(number, os.strerror(number))))
    assert told.startswith("/srv/x: ")
    assert said in told


def test_json_comes_back(tmp_path: Path) -> None:
    value = {"b": 1, "a": ["ü", None, 1.5, {"c": True}]}
    write_json(tmp_path / "file", value)
    assert read_json(tmp_path / "file") == value
    assert (tmp_path / "file").read_text().endswith("}\n")


@pytest.mark.parametrize("text", ["", "{", "[1]", '"x"', "null", "\0\0", "nan nan"])
def test_what_is_no_json_object_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_text(text)
    assert read_json(tmp_path / "file") is None


def test_what_cannot_be_read_is_none(tmp_path: Path) -> None:
    assert read_json(tmp_path / "nothing") is None
    assert read_json(tmp_path) is None
    (tmp_path / "file").write_bytes(b'{"a": "\xff"}')
    assert read_json(tmp_path / "file") is None


def test_json_nested_too_deeply_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("[" * 100_000)
    assert read_json(tmp_path / "file") is None


# -- locks --------------------------------------------------------------------------------------------------


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.try_acquire()
    assert not second.try_acquire()
    first.release()
    assert second.try_acquire()
    second.release()
    second.release()


def test_kill_9_of_the_holder_frees_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with python(HOLD, str(path), "keep") as holder:
        child = int(first_line(holder))
        try:
            assert is_locked(path)
            assert not FileLock(path).try_acquire()
            holder.kill()
            holder.wait()
            assert not is_locked(path)  # though its child lives
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_child_that_inherited_the_lock_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with python(HOLD, str(path), "pass") as holder:
        child = int(first_line(holder))
        holder.kill()
        holder.wait()
        assert is_locked(path)
        os.kill(child, signal.SIGKILL)
        wait_until(lambda: not is_locked(path), 5, "the lock is free")


def test_the_holder_says_who_it_is(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    assert lock.try_acquire()
    lock.write({"pid": 123456, "long": "x" * 100})
    lock.write({"pid": 7})
    assert json.loads((tmp_path / "lock").read_text()) == {"pid": 7}
    assert not FileLock(tmp_path / "lock").try_acquire()  # and changes nothing
    assert read_json(tmp_path / "lock") == {"pid": 7}
    lock.release()


def test_what_an_earlier_holder_said_is_gone_with_the_next(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text('{"pid": 4242}')
    lock = FileLock(tmp_path / "lock")
    assert lock.try_acquire()
    assert read_json(tmp_path / "lock") is None
    lock.release()


def test_asking_does_not_create_the_file(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "lock")
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(SystemProblem, match="No such file or directory"):
        FileLock(tmp_path / "nothing" / "lock").try_acquire()


def test_two_who_ask_at_once_are_both_told_that_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a dead process looks alive to one of them, under the pid of its last life."""
    path = tmp_path / "lock"
    path.write_text('{"pid": 4242}')
    told: list[bool] = []

    def then_another_asks(name: str) -> None:
        real = getattr(fcntl, name)

        def call(fd: int, *words: object) -> object:
            result = real(fd, *words)
            if not told:
                told.append(True)
                told[0] = is_locked(path)
            return result

        monkeypatch.setattr(durable.fcntl, name, call)

    for name in ("flock", "lockf", "fcntl"):
        then_another_asks(name)
    assert not is_locked(path)
    assert told == [False]
