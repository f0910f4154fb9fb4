"""Files that are not what their names say: exports to and imports from whatever a person may point at."""

from __future__ import annotations

import gzip
import json
import os
import shlex
import stat
import subprocess
from pathlib import Path

from tests.e2e.conftest import PROGRAM, Installation


def exported(session: Installation, tmp_path: Path) -> Path:
    session.ok("task", "submit", "code", "--wait", "--", "true")
    path = tmp_path / "tasks.jsonl"
    session.ok("task", "export", str(path))
    return path


def test_an_export_never_takes_the_place_of_a_device_or_a_pipe(
    shared_session: Installation, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for file in (str(pipe), "/dev/fd/2", ".", str(tmp_path)):
        said = shared_session.fails("task", "export", file, code=2)
        assert "is no plain file; `-` writes to stdout" in said
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pipe"]


def test_an_export_through_a_link_writes_what_it_names(shared_session: Installation, tmp_path: Path) -> None:
    link, real = tmp_path / "link", tmp_path / "real.jsonl"
    real.write_text("old")
    link.symlink_to(real)
    shared_session.ok("task", "export", str(link))
    assert link.is_symlink()
    assert json.loads(real.read_text().splitlines()[0])["ai-infra"] == "tasks"


def test_an_import_from_a_pipe(shared_session: Installation, tmp_path: Path) -> None:
    file = exported(shared_session, tmp_path)
    text = f"{shlex.quote(str(PROGRAM))} task import <(cat {shlex.quote(str(file))})"
    done = subprocess.run(
        ["bash", "-c", text], env=shared_session.env, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "were here already" in done.stdout


def test_a_packed_file_with_a_flipped_byte_is_refused_wherever_it_is(
    shared_session: Installation, tmp_path: Path
) -> None:
    packed = gzip.compress(exported(shared_session, tmp_path).read_bytes())
    for at in range(12, len(packed), len(packed) // 7):
        damaged = bytearray(packed)
        damaged[at] ^= 0xFF
        file = tmp_path / "damaged.jsonl.gz"
        file.write_bytes(damaged)
        done = shared_session.run("task", "import", str(file))
        assert done.returncode == 2, done.stderr
        assert str(file) in done.stderr
        assert "bug" not in done.stderr


def test_errors_are_short_and_obey_no_escape(shared_session: Installation) -> None:
    evil = "\x1b]0;title\x07\x1b[31m\u202e"
    said = shared_session.fails("task", "import", evil, code=4)
    assert "\\x1b]0;title\\x07\\x1b[31m\\u202e: no such file" in said
    for words in (("task", "cancel"), ("workflow", "run"), ("inbox",), ("checkup",), ("send",)):
        done = shared_session.run(*words, "x" * 100_000)
        assert done.returncode in (2, 4, 6), done.stderr[:500]
        assert len(done.stderr) < 5000
        assert "bug" not in done.stderr


def test_a_text_without_end_is_refused_when_it_is_too_long(shared_session: Installation) -> None:
    done = subprocess.run(
        ["bash", "-c", f"yes | {shlex.quote(str(PROGRAM))} send code -"],
        env=shared_session.env, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "put the content into a file and send its path" in done.stderr
