"""Every kind of repository git can make: each part that reads it answers, and changes nothing in it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from ai_infra.checkup import run_part
from ai_infra.checkup.git import GitFailed, NotARepository, open_repo
from ai_infra.checkup.sample import Builder
from ai_infra.checkup.tracked import list_tracked
from ai_infra.core.errors import SystemProblem, UsageError

READING = ("inventory", "measures", "lint", "secrets", "host")

FILES: dict[str, str | bytes] = {
    "README.md": "# Acme\n",
    "LICENSE": "Permission is hereby granted, free of charge, to any person obtaining a copy\n"
    "The above copyright notice and this permission notice\n",
    "src/main.py": "import sys\n\nprint(sys.argv)\n",
    "empty.py": "",
}


def silent(line: str) -> None:
    """Nobody listens."""


def results(repo: Path, out: Path) -> dict[str, dict[str, Any]]:
    """What every reading part says about a repository."""
    for part in READING:
        run_part(part, repo, out, silent)
    return {part: json.loads((out / f"{part}.json").read_text("utf-8")) for part in READING}


def snapshot(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Every file below a folder: mode, time of change, hash."""
    state = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        state[str(path)] = (status.st_mode, status.st_mtime_ns, hashlib.sha256(content).hexdigest())
    return state


@pytest.fixture
def plain(tmp_path: Path) -> Builder:
    """A repository with one commit."""
    builder = Builder(tmp_path / "plain")
    builder.commit(FILES)
    return builder


def test_a_plain_repository_is_read_and_not_changed(plain: Builder, tmp_path: Path) -> None:
    before = snapshot(plain.folder)
    said = results(plain.folder, tmp_path / "out")
    assert snapshot(plain.folder) == before
    assert {part: value["verdict"] for part, value in said.items() if part != "host"} == {
        "inventory": "ok", "measures": "ok", "lint": "ok", "secrets": "ok",
    }  # fmt: skip
    assert said["inventory"]["data"]["licences"] == [{"file": "LICENSE", "licence": "MIT"}]
    assert said["inventory"]["data"]["files"] == 4
    assert said["lint"]["head"] == plain.git("rev-parse", "HEAD").decode().strip()
    assert all(value["took_s"] >= 0 for value in said.values())


def test_an_empty_repository_is_unknown(tmp_path: Path) -> None:
    Builder(tmp_path / "empty")
    said = results(tmp_path / "empty", tmp_path / "out")
    assert {value["verdict"] for part, value in said.items() if part != "host"} == {"unknown"}
    assert said["inventory"]["findings"][0]["kind"] == "no-commits"


def test_staged_files_without_a_commit_are_looked_at(tmp_path: Path) -> None:
    builder = Builder(tmp_path / "staged")
    builder.write({"a.py": "def f(:\n"})
    builder.git("add", "--all")
    said = results(builder.folder, tmp_path / "out")
    assert said["lint"]["verdict"] == "fail"
    assert said["inventory"]["verdict"] == "warn"


def test_a_bare_repository_is_read_from_its_objects(plain: Builder, tmp_path: Path) -> None:
    plain.commit({"broken.json": "{", "link": ""})
    (plain.folder / "link").unlink()
    (plain.folder / "link").symlink_to("nowhere")
    plain.commit()
    bare = tmp_path / "acme.git"
    plain.git("clone", "--quiet", "--bare", str(plain.folder), str(bare))
    before = snapshot(bare)
    said = results(bare, tmp_path / "out")
    assert snapshot(bare) == before
    assert open_repo(bare).bare
    assert open_repo(bare).name == "acme"
    assert said["inventory"]["data"]["status"] is None
    assert said["inventory"]["data"]["files"] == 5
    assert {finding["kind"] for finding in said["lint"]["findings"]} == {"json-syntax", "broken-symlink"}
    assert said["measures"]["data"]["answers"]["totals"]["rows"][0][0] == 5


def test_a_shallow_clone_says_that_its_history_is_cut(plain: Builder, tmp_path: Path) -> None:
    for n in range(3):
        plain.commit({"src/main.py": f"print({n})\n"})
    shallow = tmp_path / "shallow"
    plain.git("clone", "--quiet", "--depth", "2", f"file://{plain.folder}", str(shallow))
    said = results(shallow, tmp_path / "out")
    kinds = {finding["kind"] for part in ("inventory", "measures") for finding in said[part]["findings"]}
    assert {"shallow", "history-cut"} <= kinds
    # Every file looks new at the edge; only what changed after it counts.
    untouched = {row[0]: row for row in said["measures"]["data"]["answers"]["largest"]["rows"]}
    assert set(untouched) == {"src/main.py", "empty.py"}
    assert said["measures"]["data"]["commits_read"] == 1


def test_submodules_are_named_and_not_entered(plain: Builder, tmp_path: Path) -> None:
    inner = Builder(tmp_path / "inner")
    inner.commit({"inside.py": "def f(:\n"})
    plain.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner.folder), "lib")
    plain.commit()
    said = results(plain.folder, tmp_path / "out")
    assert said["inventory"]["data"]["submodules"] == ["lib"]
    assert said["lint"]["verdict"] == "ok"
    assert results(plain.folder / "lib", tmp_path / "out2")["lint"]["verdict"] == "fail"


def test_a_submodule_without_an_address_is_a_warning(plain: Builder, tmp_path: Path) -> None:
    commit = plain.git("rev-parse", "HEAD").decode().strip()
    plain.git("update-index", "--add", "--cacheinfo", f"160000,{commit},lost")
    said = results(plain.folder, tmp_path / "out")
    assert "submodule-unknown" in {finding["kind"] for finding in said["inventory"]["findings"]}


def test_names_of_any_bytes_are_shown_safely(plain: Builder, tmp_path: Path) -> None:
    names = [
        b"new\nline.py",
        b"caf\xe9.py",
        b"tab\t.py",
        b'quo"te.py',
        b"esc\x1b[31m.py",
        b" blank .py",
        "ümlaut.py".encode(),
    ]
    for name in names:
        (plain.folder / os.fsdecode(name)).write_bytes(b"def f(:\n")
    plain.commit()
    plain.commit({os.fsdecode(name): "def g(:\n" for name in names})
    said = results(plain.folder, tmp_path / "out")
    shown = {finding["file"] for finding in said["lint"]["findings"] if finding["kind"] == "python-syntax"}
    assert shown == {
        "new\\nline.py", "caf\\xe9.py", "tab\\t.py", 'quo"te.py', "esc\\x1b[31m.py", " blank .py",
        "ümlaut.py",
    }  # fmt: skip
    rows = said["measures"]["data"]["answers"]["hot_spots"]["rows"]
    assert {row[0]: row[3] for row in rows} == dict.fromkeys(shown, 2)


def test_a_file_that_is_no_utf_8_and_one_that_is_nothing(plain: Builder, tmp_path: Path) -> None:
    plain.commit({"src/old.c": "/* caf\xe9 */\n".encode("latin-1"), "data.bin": b"\0\xff\xfe", "void": b""})
    said = results(plain.folder, tmp_path / "out")
    assert [(f["kind"], f["file"], f["line"]) for f in said["lint"]["findings"]] == [
        ("not-utf-8", "src/old.c", 1)
    ]
    assert said["inventory"]["data"]["binary_files"] == 1


def test_a_detached_head_has_no_branch(plain: Builder, tmp_path: Path) -> None:
    plain.commit({"a.txt": "1"})
    plain.git("checkout", "--quiet", "--detach", "HEAD~1")
    said = results(plain.folder, tmp_path / "out")
    assert said["inventory"]["data"]["branch"] is None
    assert said["inventory"]["data"]["default_branch"] == "main"
    assert "detached HEAD at" in open_repo(plain.folder).label


def test_a_folder_inside_a_repository_stands_for_the_whole(plain: Builder, tmp_path: Path) -> None:
    assert open_repo(plain.folder / "src").top == plain.folder
    said = results(plain.folder / "src", tmp_path / "out")
    assert said["inventory"]["data"]["files"] == 4


def test_a_worktree_and_the_git_folder_itself_are_the_repository(plain: Builder, tmp_path: Path) -> None:
    plain.git("worktree", "add", "--quiet", str(tmp_path / "tree"), "-b", "side")
    assert open_repo(tmp_path / "tree").branch == "side"
    assert results(tmp_path / "tree", tmp_path / "out")["measures"]["data"]["commits_read"] == 1
    assert open_repo(plain.folder / ".git").top == plain.folder


def test_something_else_is_no_repository(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path, words in (
        (tmp_path, "not a git repository"),
        (tmp_path / "gone", "does not exist"),
        (tmp_path / "file", "is not a folder"),
    ):
        with pytest.raises(NotARepository, match=words) as error:
            run_part("inventory", path, tmp_path / "out", silent)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out" / "inventory.json").exists()


def test_a_failing_part_leaves_no_older_result(plain: Builder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_part("lint", plain.folder, out, silent)
    shutil.rmtree(plain.folder / ".git")
    with pytest.raises(NotARepository):
        run_part("lint", plain.folder, out, silent)
    assert not (out / "lint.json").exists()


def test_damaged_objects_are_one_clear_error(plain: Builder, tmp_path: Path) -> None:
    blob = plain.git("rev-parse", "HEAD^{tree}").decode().strip()
    damaged = plain.folder / ".git/objects" / blob[:2] / blob[2:]
    damaged.chmod(0o644)
    damaged.write_bytes(b"rubbish")
    with pytest.raises(GitFailed, match=r"git log in \S+plain: \S+"):
        run_part("measures", plain.folder, tmp_path / "out", silent)


def test_an_unknown_part_is_named(plain: Builder, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no check-up part 'paint'; parts are: inventory, measures"):
        run_part("paint", plain.folder, tmp_path / "out", silent)


def test_a_folder_that_cannot_be_written_is_a_clear_error(plain: Builder, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file is in the way")
    with pytest.raises(SystemProblem, match="out"):
        run_part("inventory", plain.folder, tmp_path / "out", silent)


def test_a_machine_without_git_is_told(
    plain: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemProblem, match="git is not installed; install the package `git`"):
        open_repo(plain.folder)


def test_no_program_that_a_repository_names_is_started(plain: Builder, tmp_path: Path) -> None:
    """Each of these settings would leave a trace, in an ordinary `git status` or `git log -p`."""
    trace = tmp_path / "trace"
    script = tmp_path / "evil.sh"
    script.write_text(f"#!/bin/sh\necho $0 $* >> {trace}\ncat\n")
    script.chmod(0o755)
    plain.commit({".gitattributes": "*.py filter=evil diff=evil\n*.md filter=odd=name\n"})
    for key in (
        "core.fsmonitor", "core.pager", "core.sshCommand", "diff.external", "diff.evil.textconv",
        "diff.evil.command", "filter.evil.clean", "filter.evil.smudge", "filter.odd=name.clean",
        "gpg.program", "core.askPass", "credential.helper", "core.editor",
    ):  # fmt: skip
        plain.git("config", key, str(script))
    plain.git("config", "log.showSignature", "true")
    hooks = plain.folder / ".git/hooks"
    hooks.mkdir(exist_ok=True)
    for hook in ("post-checkout", "post-index-change", "pre-auto-gc", "reference-transaction"):
        shutil.copy(script, hooks / hook)
    for name in ("src/main.py", "README.md"):  # the same size and content, another time: git looks again
        os.utime(plain.folder / name, (1, 1))
    trace.unlink(missing_ok=True)
    results(plain.folder, tmp_path / "out")
    assert not trace.exists()
    # The trap works: without the precautions it is sprung.
    os.utime(plain.folder / "src/main.py", (2, 2))
    plain.git("-c", "core.hooksPath=.git/hooks", "status")
    assert trace.exists()


def test_settings_of_the_person_do_not_change_the_answers(
    plain: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "home"
    config.mkdir()
    (config / "mailmap").write_text("Somebody Else <author@sample.invalid>\n")
    (config / ".gitconfig").write_text(f"[mailmap]\nfile = {config}/mailmap\n[color]\nui = always\n")
    monkeypatch.setenv("HOME", str(config))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_INDEX_FILE", "/nowhere/index")
    said = results(plain.folder, tmp_path / "out")
    assert said["inventory"]["data"]["history"]["top"] == [["Sample Author", 1]]
    assert said["secrets"]["data"]["commits"] == 1


def test_files_that_are_not_files_are_not_opened(plain: Builder, tmp_path: Path) -> None:
    """A tracked file may have become a FIFO or a link to a secret since; a folder a link out of the tree."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "deep.py").write_text("def f(:\n")
    plain.commit({"pipe.py": "x = 1\n", "link.py": "x = 1\n", "folder/deep.py": "x = 1\n"})
    for name in ("pipe.py", "link.py"):
        (plain.folder / name).unlink()
    os.mkfifo(plain.folder / "pipe.py")
    (plain.folder / "link.py").symlink_to(secret / "deep.py")
    shutil.rmtree(plain.folder / "folder")
    (plain.folder / "folder").symlink_to(secret)
    contents = {
        content.entry.path: content.data for content in list_tracked(open_repo(plain.folder)).contents()
    }
    assert [contents[name] for name in ("pipe.py", "link.py", "folder/deep.py")] == [None] * 3
    assert contents["src/main.py"]
    said = results(plain.folder, tmp_path / "out")
    assert {finding["kind"] for finding in said["lint"]["findings"]} == {"missing-file"}
