"""The parts on real repositories: what each must find, and what must never be shown."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ai_infra.checkup import run_part
from ai_infra.checkup.churn import read_churn
from ai_infra.checkup.git import open_repo
from ai_infra.checkup.sample import Builder
from ai_infra.checkup.secret_scan import Scan, scan_history

DAY_S = 86_400
TOKEN = "gh" + "p_" + "Qx7Lm2Zt9Kw4Rv8Nc3Yd6Hf1Bs5Gj0PaTuEi"  # put together here, so that no file holds one


@pytest.fixture
def acme(tmp_path: Path) -> Builder:
    """A repository that nothing is wrong with."""
    builder = Builder(tmp_path / "acme")
    builder.commit({"README.md": "# Acme\n", "LICENSE": "Apache License\nVersion 2.0, January 2004\n"})
    return builder


def look(part: str, builder: Builder, out: Path, lines: list[str] | None = None) -> dict[str, Any]:
    """The result of one part; what it says meanwhile goes into `lines`."""
    run_part(part, builder.folder, out, (lines if lines is not None else []).append)
    value: dict[str, Any] = json.loads((out / f"{part}.json").read_text("utf-8"))
    return value


def kinds(value: dict[str, Any]) -> dict[str, str]:
    return {finding["kind"]: finding["severity"] for finding in value["findings"]}


def test_a_credential_in_a_remote_fails_and_is_never_shown(acme: Builder, tmp_path: Path) -> None:
    acme.git("remote", "add", "origin", f"https://bot:{TOKEN}@git.acme.io/a.git")
    acme.git("remote", "add", "clean", "git@git.acme.io:a.git")
    lines: list[str] = []
    value = look("inventory", acme, tmp_path / "out", lines)
    assert kinds(value)["remote-credential"] == "fail"
    assert value["data"]["remotes"] == ["clean: git.acme.io", "origin: git.acme.io"]
    run_part("report", acme.folder, tmp_path / "out", lines.append)
    written = "".join(path.read_text("utf-8") for path in (tmp_path / "out").iterdir())
    assert TOKEN not in written + "\n".join(lines)
    assert TOKEN[:12] not in written + "\n".join(lines)


def test_the_inventory_counts_people_as_mailmap_says(acme: Builder, tmp_path: Path) -> None:
    for n, author in enumerate(
        [("Ann", "a@x"), ("ann b.", "old@x"), ("Ben", "b@x"), ("renovate[bot]", "r@x")]
    ):
        acme.commit({"a.txt": str(n)}, author=author)
    acme.commit({".mailmap": "Ann <a@x> <old@x>\n"}, author=("Ann", "a@x"))
    past = look("inventory", acme, tmp_path / "out")["data"]["history"]
    assert past["top"][0] == ["Ann", 3]
    assert (past["authors"], past["bots"], past["commits"]) == (3, 1, 6)


def test_the_state_of_the_working_tree(acme: Builder, tmp_path: Path) -> None:
    acme.git("clone", "--quiet", "--bare", str(acme.folder), str(tmp_path / "up.git"))
    acme.git("remote", "add", "origin", str(tmp_path / "up.git"))
    acme.git("fetch", "--quiet", "origin")
    acme.git("branch", "--quiet", "--set-upstream-to=origin/main", "main")
    acme.commit({"b.txt": "1"})
    acme.git("tag", "v1")
    acme.write({"README.md": "changed\n", "new.txt": "x", "staged.txt": "x"})
    acme.git("add", "staged.txt")
    value = look("inventory", acme, tmp_path / "out")
    assert {"uncommitted", "unpushed"} <= set(kinds(value))
    status = value["data"]["status"]
    assert (status["staged"], status["modified"], status["untracked"], status["ahead"]) == (1, 1, 1, 1)
    assert (value["data"]["branches"], value["data"]["remote_branches"], value["data"]["tags"]) == (1, 1, 1)


def test_an_unfinished_merge_fails_in_inventory_and_lint(acme: Builder, tmp_path: Path) -> None:
    acme.commit({"a.txt": "base\n"})
    acme.git("checkout", "--quiet", "-b", "side")
    acme.commit({"a.txt": "side\n"})
    acme.git("checkout", "--quiet", "main")
    acme.commit({"a.txt": "main\n"})
    with pytest.raises(Exception, match="merge"):
        acme.git("merge", "side")
    assert kinds(look("inventory", acme, tmp_path / "out"))["unmerged"] == "fail"
    assert kinds(look("lint", acme, tmp_path / "out")) == {"unmerged": "fail", "merge-conflict": "fail"}


def test_a_licence_that_contradicts_the_metadata_is_a_warning(acme: Builder, tmp_path: Path) -> None:
    acme.commit({"pyproject.toml": '[project]\nname = "x"\nlicense = "MIT"\n'})
    assert kinds(look("inventory", acme, tmp_path / "out"))["licence-mismatch"] == "warn"


def test_a_repository_nobody_touched_for_years(tmp_path: Path) -> None:
    builder = Builder(tmp_path / "old")
    builder.commit({"a.py": "x = 1\n"}, at_s=int(time.time()) - 1000 * DAY_S)
    value = look("inventory", builder, tmp_path / "out")
    assert {"dormant", "no-licence", "no-readme"} <= set(kinds(value))
    assert value["data"]["history"]["idle_days"] == 1000


def long_function(lines: int) -> str:
    return (
        "def f(a):\n"
        + "".join(f"    if a == {n}:\n        a += 1\n" for n in range(lines // 2))
        + "    return a\n"
    )


def test_measures_are_a_table_anybody_can_ask(acme: Builder, tmp_path: Path) -> None:
    now_s = int(time.time())
    acme.commit({"old.py": "x = 1\n# note\n\n", "big.py": long_function(300)}, at_s=now_s - 500 * DAY_S)
    for n in range(3):
        acme.commit(
            {"hot.c": "\n".join(f"int a{m};" for m in range(n + 20))},
            at_s=now_s - DAY_S,
            author=(f"A{n}", f"{n}@x"),
        )
    acme.git("mv", "hot.c", "moved.c")
    acme.commit(at_s=now_s)
    acme.commit({"copy.c": (acme.folder / "moved.c").read_bytes(), "vendor/v.c": "int v;\n"})
    value = look("measures", acme, tmp_path / "out")
    with closing(sqlite3.connect(tmp_path / "out" / "measures.sqlite")) as database:
        columns = "language, role, lines, code_lines, blank_lines, comment_lines, commits, authors"
        row = f"SELECT {columns} FROM files WHERE path = ?"
        assert database.execute(row, ("old.py",)).fetchone() == ("Python", "source", 3, 1, 1, 1, 1, 1)
        assert database.execute(row, ("moved.c",)).fetchone()[-2:] == (
            4,
            4,
        )  # its history before the renaming too
        assert database.execute(row, ("vendor/v.c",)).fetchone()[1] == "vendored"
        assert database.execute("SELECT name, lines, complexity FROM functions").fetchall() == [
            ("f", 302, 151)
        ]
        assert database.execute("SELECT value FROM meta WHERE key = 'head'").fetchone()[0] == value["head"]
    answers = {name: answer["rows"] for name, answer in value["data"]["answers"].items()}
    assert answers["hot_spots"][0][0] == "moved.c"
    assert answers["longest_functions"][0][:2] == ["big.py", "f"]
    assert [row[0] for row in answers["untouched"]] == ["big.py", "old.py"]
    assert answers["duplicates"] == [["copy.c", 2, len((acme.folder / "moved.c").read_bytes()), "moved.c"]]
    assert kinds(value) == {"complex-function": "info", "long-function": "info", "duplicate": "info"}


def test_measures_twice_are_the_same_and_replace_a_damaged_table(acme: Builder, tmp_path: Path) -> None:
    first = look("measures", acme, tmp_path / "out")
    (tmp_path / "out" / "measures.sqlite").write_bytes(b"rubbish")
    second = look("measures", acme, tmp_path / "out")
    assert first["data"] == second["data"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["measures.json", "measures.sqlite"]


def test_a_long_history_is_cut_and_said_to_be(acme: Builder) -> None:
    for n in range(5):
        acme.commit({"a.txt": str(n)})
    churn = read_churn(open_repo(acme.folder), max_commits=3)
    assert (churn.commits, churn.cut, churn.changes["a.txt"].commits) == (3, True, 3)
    assert not read_churn(open_repo(acme.folder)).cut


FAULTS: dict[str, str | bytes] = {
    "src/broken.py": "def f(:\n",
    "src/names.py": "import os\n\n\ndef f(rows=[]):\n    rows.append(missing)\n",
    "config/a.json": '{"a": 1,}',
    "config/b.yaml": "a: [1\n",
    "config/c.toml": "a = \n",
    "config/d.xml": "<a>",
    "setup.cfg": "x = 1\n",
    "bin/run.sh": "#!/bin/bash\nif true; then\n  echo\n",
    "web/app.js": "function f( {\n",
    "web/fine.mjs": "import x from 'y';\nexport default await x;\n",
    "web/old.js": "#!/usr/bin/env node\nif (process) return;\n",
    "web/view.js": "export const A = () => <div/>;\n",
    "merge.txt": "<<<<<<< HEAD\na\n=======\nb\n>>>>>>> side\n",
    "docs/README.md": "[a](gone.md)\n",
    "big.dat": b"\1" * 5_100_000,
    "bin/fine.sh": "#!/bin/bash\nshopt -s extglob\nrm -f @(a|b)\ntouch /tmp/never-run\n",
}


def test_lint_finds_each_fault_once(acme: Builder, tmp_path: Path) -> None:
    acme.write(FAULTS)
    for name in ("run.sh", "fine.sh"):
        (acme.folder / "bin" / name).chmod(0o755)
    (acme.folder / "dangling").symlink_to("nowhere")
    acme.commit()
    value = look("lint", acme, tmp_path / "out")
    found = sorted((finding["kind"], finding["file"]) for finding in value["findings"])
    assert found == [
        ("broken-link", "docs/README.md"),
        ("broken-symlink", "dangling"),
        ("ini-syntax", "setup.cfg"),
        ("javascript-syntax", "web/app.js"),
        ("json-syntax", "config/a.json"),
        ("large-file", "big.dat"),
        ("merge-conflict", "merge.txt"),
        ("mutable-default", "src/names.py"),
        ("python-syntax", "src/broken.py"),
        ("shebang-not-executable", "web/old.js"),
        ("shell-syntax", "bin/run.sh"),
        ("toml-syntax", "config/c.toml"),
        ("undefined-name", "src/names.py"),
        ("unused-import", "src/names.py"),
        ("xml-syntax", "config/d.xml"),
        ("yaml-syntax", "config/b.yaml"),
    ]
    assert value["verdict"] == "fail"
    shell = next(finding for finding in value["findings"] if finding["kind"] == "shell-syntax")
    assert shell["line"] == 4
    assert not Path("/tmp/never-run").exists()


def test_many_findings_are_bounded_on_the_terminal_and_in_the_file(acme: Builder, tmp_path: Path) -> None:
    acme.commit({f"src/m{n}.py": "import os\n\n\ndef f(): ...\n" for n in range(60)})
    lines: list[str] = []
    value = look("lint", acme, tmp_path / "out", lines)
    assert value["data"]["counts"] == {"unused-import": 60}
    assert len(value["findings"]) == 21
    assert value["findings"][-1]["more"] == 40
    assert lines[0].startswith("lint: ")
    assert lines[-1].startswith("lint: ok: 62 files checked: 60 untidy (")
    assert len(lines) == 1 + 21 + 1


def test_a_secret_in_the_files_fails_and_is_never_shown(acme: Builder, tmp_path: Path) -> None:
    acme.commit({"src/conf.py": f"\nTOKEN = '{TOKEN}'\n"})
    lines: list[str] = []
    value = look("secrets", acme, tmp_path / "out", lines)
    (finding,) = value["findings"]
    assert (finding["kind"], finding["file"], finding["line"]) == ("secret", "src/conf.py", 2)
    assert finding["message"] == f"GitHub token: {TOKEN[:4]}… ({len(TOKEN)} characters)"
    run_part("report", acme.folder, tmp_path / "out", lines.append)
    written = "".join(path.read_text("utf-8") for path in (tmp_path / "out").iterdir()) + "\n".join(lines)
    assert TOKEN[:6] not in written


def test_a_secret_that_was_removed_is_a_warning_with_its_commit(acme: Builder, tmp_path: Path) -> None:
    commit = acme.commit({"src/conf.py": f"a\nb\nTOKEN = '{TOKEN}'\n"})
    acme.commit({"src/conf.py": "a\nb\n"})
    value = look("secrets", acme, tmp_path / "out")
    (finding,) = value["findings"]
    assert (value["verdict"], finding["kind"]) == ("warn", "secret-in-history")
    assert (finding["file"], finding["line"]) == ("src/conf.py", 3)
    assert commit[:10] in finding["message"]


def test_a_secret_that_moved_is_one_finding_in_the_files(acme: Builder, tmp_path: Path) -> None:
    acme.commit({"src/a.py": f"TOKEN = '{TOKEN}'\n"})
    acme.git("mv", "src/a.py", "src/b.py")
    acme.commit()
    value = look("secrets", acme, tmp_path / "out")
    assert [(f["kind"], f["file"]) for f in value["findings"]] == [("secret", "src/b.py")]


def test_what_is_marked_harmless_or_belongs_to_tests(acme: Builder, tmp_path: Path) -> None:
    other = "gh" + "p_" + TOKEN[4:][::-1]
    acme.commit(
        {
            "src/a.py": f"TOKEN = '{TOKEN}'  # pragma: allowlist secret\n",
            "tests/test_a.py": f"T = '{other}'\n",
        }
    )
    value = look("secrets", acme, tmp_path / "out")
    assert [(f["kind"], f["severity"], f["file"]) for f in value["findings"]] == [
        ("secret-in-test", "warn", "tests/test_a.py")
    ]
    assert value["data"]["marked_harmless"] == 1


def test_a_tracked_env_file_is_a_warning(acme: Builder, tmp_path: Path) -> None:
    acme.commit({".env": "API_TOKEN=" + "plainwords" + "\n"})
    assert kinds(look("secrets", acme, tmp_path / "out")) == {"credential-file": "warn"}


def test_the_history_scan_is_bounded_and_says_so(acme: Builder) -> None:
    for n in range(4):
        acme.commit({"a.txt": str(n)})
    acme.commit({"b.txt": TOKEN})
    scan = Scan()
    scan_history(open_repo(acme.folder), scan, max_commits=2)
    assert (scan.commits, scan.cut, len(scan.past)) == (2, True, 1)


def test_the_host_part_sees_this_machine(acme: Builder, tmp_path: Path) -> None:
    value = look("host", acme, tmp_path / "out")
    assert value["verdict"] in ("ok", "warn", "fail")
    assert value["data"]["disks"][0]["total_bytes"] > 0
    assert 0 < value["data"]["memory_percent"] < 100
    assert value["data"]["cores"] >= 1
