"""Running test suites: real runners in a real copy, bounded, and nothing left behind or changed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from ai_infra.checkup import run_part, suites
from ai_infra.checkup.bounded import HEAD_BYTES, MARK, TAIL_BYTES, kill_marked, run_bounded
from ai_infra.checkup.copies import home_prefix
from ai_infra.checkup.sample import Builder, make_sample
from ai_infra.core.errors import Conflict
from ai_infra.testing import wait_until

TESTS_PART = (
    sys.executable,
    "-c",
    "import sys; from pathlib import Path; from ai_infra.checkup import run_part;"
    "run_part('tests', Path(sys.argv[1]), Path(sys.argv[2]))",
)
GOOD = "import unittest\n\nclass A(unittest.TestCase):\n    def test_a(self):\n        pass\n"


@pytest.fixture(autouse=True)
def not_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests run suites of their own, also when a check-up runs these tests."""
    monkeypatch.delenv("AI_INFRA_CHECKUP", raising=False)


@pytest.fixture
def acme(tmp_path: Path) -> Builder:
    """An empty repository whose own virtual environment is the one the tests run in."""
    builder = Builder(tmp_path / "acme")
    builder.commit({".gitignore": ".venv\nnode_modules\n"})
    (builder.folder / ".venv").symlink_to(sys.prefix)
    return builder


def look(builder: Builder, out: Path) -> dict[str, Any]:
    return look_at(builder.folder, out)


def look_at(folder: Path, out: Path) -> dict[str, Any]:
    run_part("tests", folder, out, lambda line: None)
    value: dict[str, Any] = json.loads((out / "tests.json").read_text("utf-8"))
    return value


def files_of(folder: Path) -> dict[str, str]:
    """Every file with its hash, but for what git itself keeps."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def test_a_suite_that_passes(acme: Builder, tmp_path: Path) -> None:
    acme.commit({"tests/test_a.py": GOOD})
    value = look(acme, tmp_path / "out")
    assert (value["verdict"], value["summary"]) == ("ok", "unittest tests: 1 passed")
    assert value["data"]["suites"][0]["counts"] == {"passed": 1, "failed": 0, "skipped": 0}
    assert os.listdir(tmp_path / "out") == ["tests.json"]


def test_head_is_tested_not_the_working_tree_and_nothing_is_written_there(
    acme: Builder, tmp_path: Path
) -> None:
    writing = GOOD.replace("pass", "open('litter', 'w').close(); import helper; assert helper.N == 1")
    acme.commit({"tests/test_a.py": writing, "src/helper.py": "N = 1\n"})
    acme.write({"src/helper.py": "N = 2\n", "tests/test_b.py": "raise SystemExit('not committed')\n"})
    before = files_of(acme.folder)
    value = look(acme, tmp_path / "out")
    assert value["verdict"] == "ok", value
    assert files_of(acme.folder) == before


@pytest.mark.parametrize("kind", ["bare", "shallow", "worktree", "detached", "sha256"])
def test_every_kind_of_repository_can_be_copied(acme: Builder, tmp_path: Path, kind: str) -> None:
    acme.commit(
        {"tests/test_a.py": GOOD.replace("pass", "assert open('version').read() == '2'"), "version": "1"}
    )
    acme.commit({"version": "2"})
    acme.git("tag", "v2")
    folder = tmp_path / kind
    if kind == "bare":
        acme.git("clone", "--quiet", "--bare", str(acme.folder), str(folder))
    elif kind == "shallow":
        acme.git("clone", "--quiet", "--depth", "1", f"file://{acme.folder}", str(folder))
    elif kind == "worktree":
        acme.git("worktree", "add", "--quiet", "--detach", str(folder))
    elif kind == "detached":
        acme.git("checkout", "--quiet", "--detach", "HEAD")
        acme.git("branch", "--quiet", "-D", "main")
        folder = acme.folder
    else:
        other = Builder(folder, object_format="sha256")
        other.commit({"tests/test_a.py": GOOD})
    value = look_at(folder, tmp_path / "out")
    assert (value["verdict"], value["summary"]) == ("ok", "unittest tests: 1 passed")


def test_a_build_can_ask_git_for_the_version(acme: Builder, tmp_path: Path) -> None:
    code = "import subprocess; assert subprocess.check_output(['git', 'describe']) == b'v1\\n'"
    acme.commit({"tests/test_a.py": GOOD.replace("pass", code)})
    acme.git("tag", "-m", "first", "v1")
    value = look(acme, tmp_path / "out")
    assert value["verdict"] == "ok", value["data"]["suites"][0]["tail"]


def test_failing_tests_are_named_with_their_file(acme: Builder, tmp_path: Path) -> None:
    acme.commit(
        {
            "tests/test_a.py": "def test_good():\n    pass\n\n\ndef test_bad():\n    assert 1 == 2, 'no'\n",
            "pytest.ini": "[pytest]\n",
        }
    )
    value = look(acme, tmp_path / "out")
    assert value["verdict"] == "fail"
    assert value["summary"] == "pytest: 1 failed, 1 passed"
    (finding,) = value["findings"]
    assert (finding["kind"], finding["file"]) == ("tests-failed", "tests/test_a.py")
    assert finding["message"].startswith("test_bad: AssertionError: no")


def test_the_quick_folder_is_preferred_and_said_to_be(acme: Builder, tmp_path: Path) -> None:
    test = "import pytest\n\ndef test_a(): ...\n"
    acme.commit({"tests/unit/test_a.py": test, "tests/slow/test_b.py": "raise SystemExit(1)\n"})
    value = look(acme, tmp_path / "out")
    assert (value["verdict"], value["summary"]) == ("ok", "pytest tests/unit: 1 passed")
    assert "only the quick ones" in value["findings"][0]["message"]


def test_the_environment_is_clean(acme: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SECRET", "x")
    monkeypatch.setenv("HOME", "/home/elsewhere")
    code = (
        "import os, sys\n"
        "        assert 'SOME_SECRET' not in os.environ\n"
        "        assert os.environ['AI_INFRA_CHECKUP'] == '1'\n"
        "        home = os.environ['HOME']\n"
        "        assert home != '/home/elsewhere' and len(os.listdir(home)) == 1\n"
        "        assert len(os.environ['TMPDIR']) < 40\n"
        "        assert sys.stdin.read() == ''\n"
        "        assert os.getsid(0) != int(open('../sid').read() if os.path.exists('../sid') else 0)\n"
    )
    acme.commit({"tests/test_a.py": GOOD.replace("pass", code)})
    value = look(acme, tmp_path / "out")
    assert value["verdict"] == "ok", value["data"]["suites"][0]["tail"]


def test_missing_modules_make_a_suite_unknown(acme: Builder, tmp_path: Path) -> None:
    acme.commit({"tests/test_a.py": "import no_such_module_anywhere\n", "pytest.ini": "[pytest]\n"})
    value = look(acme, tmp_path / "out")
    assert value["verdict"] == "unknown"
    assert "Python modules are missing: no_such_module_anywhere" in value["summary"]


def test_a_runner_that_is_not_there_makes_a_suite_unknown(
    acme: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme.commit({"go.mod": "module x\n", "a_test.go": "package x\n"})
    git = shutil.which("git")
    assert git is not None
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").symlink_to(git)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    value = look(acme, tmp_path / "out")
    assert (value["verdict"], value["summary"]) == ("unknown", "go test: go is not installed")


def test_no_suite_and_no_commit_are_unknown(acme: Builder, tmp_path: Path) -> None:
    assert look(acme, tmp_path / "out")["summary"] == "no test suite was found"
    empty = Builder(tmp_path / "empty")
    assert look(empty, tmp_path / "out")["summary"] == "no commits, so no tests"


def test_a_check_up_inside_a_check_up_runs_no_tests(
    acme: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme.commit({"tests/test_a.py": GOOD})
    monkeypatch.setenv("AI_INFRA_CHECKUP", "1")
    value = look(acme, tmp_path / "out")
    assert value["verdict"] == "unknown"
    assert "already inside a check-up" in value["summary"]


def test_a_suite_that_does_not_end_is_stopped_with_all_it_started(
    acme: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The suite ignores the interrupt, and one of its children left its session."""
    monkeypatch.setattr(suites, "SUITE_S", 0.5)
    monkeypatch.setattr("ai_infra.checkup.bounded.GRACE_S", 0.2)
    acme.commit(
        {
            "Makefile": "test:\n\t@setsid sleep 600 & exec sh stubborn.sh\n",
            "stubborn.sh": "trap '' INT TERM HUP\nwhile true; do echo waiting; sleep 600; done\n",
        }
    )
    started = time.monotonic()
    value = look(acme, tmp_path / "out")
    assert time.monotonic() - started < 10
    assert value["verdict"] == "unknown"
    assert value["findings"][0]["kind"] == "suite-timeout"
    assert alive(str((tmp_path / "out").absolute())) == []
    assert os.listdir(tmp_path / "out") == ["tests.json"]


def alive(run: str) -> list[int]:
    """The processes of a run that still live."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == run and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def names(pids: list[int]) -> set[str]:
    """The programs of some processes; one that has ended meanwhile has none."""
    found = set()
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            found.add(psutil.Process(pid).name())
    return found


def test_pytest_is_interrupted_first_and_still_counts(
    acme: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suites, "SUITE_S", 3.0)
    code = "import time\n\ndef test_a(): ...\n\ndef test_b():\n    while True:\n        time.sleep(0.1)\n"
    acme.commit({"tests/test_a.py": code, "pytest.ini": "[pytest]\n"})
    value = look(acme, tmp_path / "out")
    assert value["findings"][0]["message"] == "pytest: not finished after 3 s (1 passed)"


def test_make_that_would_install_is_not_run(acme: Builder, tmp_path: Path) -> None:
    acme.commit({"Makefile": "test:\n\tpip install -e . && touch ran\n"})
    value = look(acme, tmp_path / "out")
    assert (value["verdict"], value["data"]["suites"][0]["ending"]) == ("unknown", "not run")
    assert "would install or download (it says 'pip install')" in value["summary"]


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed here")
def test_npm_with_dependencies_from_the_repository(acme: Builder, tmp_path: Path) -> None:
    manifest = {"scripts": {"test": "node check.js"}, "dependencies": {"left": "1"}}
    acme.commit({"package.json": json.dumps(manifest), "check.js": "require('left')\n"})
    assert "no node_modules" in look(acme, tmp_path / "out")["summary"]
    acme.write({"node_modules/left/index.js": "require('fs').writeFileSync(__dirname + '/cache', 'x')\n"})
    before = files_of(acme.folder)
    value = look(acme, tmp_path / "out")
    assert value["verdict"] == "ok", value["data"]
    assert files_of(acme.folder) == before


def test_a_killed_check_up_is_cleaned_up_by_the_next(acme: Builder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    acme.commit({"Makefile": "test:\n\t@setsid sleep 600 & sleep 600\n"})
    with subprocess.Popen([*TESTS_PART, str(acme.folder), str(out)], stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: len(alive(str(out))) >= 3, 10, "the suite runs")
        process.kill()
        process.wait()
    if shutil.which("setpriv"):  # then the kernel ends the runner itself with us
        wait_until(lambda: "make" not in names(alive(str(out))), 5, "make is gone")
    assert list(out.glob(".tests-copy-*"))
    assert list(Path(tempfile.gettempdir()).glob(f"{home_prefix(str(out))}*"))
    acme.commit({"Makefile": "test:\n\t@echo fine\n"})
    assert look(acme, out)["verdict"] == "ok"
    wait_until(lambda: alive(str(out)) == [], 5, "the old suite is gone")
    assert os.listdir(out) == ["tests.json"]
    assert list(Path(tempfile.gettempdir()).glob(f"{home_prefix(str(out))}*")) == []


def test_what_only_has_the_name_of_a_leftover_stays(acme: Builder, tmp_path: Path) -> None:
    out, precious = tmp_path / "out", tmp_path / "precious"
    (precious / "inner").mkdir(parents=True)
    precious.chmod(0o755)
    (out / ".tests-copy-1").mkdir(parents=True)
    (out / ".tests-copy-2").symlink_to(precious)
    look(acme, out)
    assert sorted(os.listdir(out)) == [".tests-copy-2", "tests.json"]
    assert precious.stat().st_mode & 0o777 == 0o755
    assert (precious / "inner").is_dir()


def test_a_check_up_that_is_asked_to_stop_leaves_nothing(acme: Builder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    acme.commit({"Makefile": "test:\n\t@setsid sleep 600 & sleep 600\n"})
    with subprocess.Popen([*TESTS_PART, str(acme.folder), str(out)], stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: len(alive(str(out))) >= 3, 10, "the suite runs")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM
    assert alive(str(out)) == []
    assert os.listdir(out) == []


def test_endless_output_is_bounded(tmp_path: Path) -> None:
    code = "import sys\nprint('first')\nfor n in range(100000):\n    print('x' * 50)\nprint('last')\n"
    outcome = run_bounded([sys.executable, "-c", code], tmp_path, dict(os.environ), 20, run="bounded-test")
    assert outcome.code == 0
    assert outcome.output_bytes > 5_000_000
    assert len(outcome.output) < HEAD_BYTES + TAIL_BYTES + 100
    assert outcome.output.startswith("first\n")
    assert outcome.output.endswith("last\n")
    assert "bytes left out" in outcome.output


def test_a_child_that_holds_the_pipe_does_not_hold_us(tmp_path: Path) -> None:
    started = time.monotonic()
    outcome = run_bounded(
        ["sh", "-c", "echo out; setsid sleep 600 & exit 3"], tmp_path, dict(os.environ), 20, run="pipe-test"
    )
    assert (outcome.code, outcome.output) == (3, "out\n")
    assert time.monotonic() - started < 5
    assert alive("pipe-test") == []


def test_killing_by_mark_spares_others(tmp_path: Path) -> None:
    environment = dict(os.environ)
    with (
        subprocess.Popen(["sleep", "600"], env=environment | {MARK: "mine"}) as mine,
        subprocess.Popen(["sleep", "600"], env=environment | {MARK: "other"}) as other,
    ):
        assert kill_marked("mine") == 1
        assert mine.wait(5) == -signal.SIGKILL
        assert other.poll() is None
        other.kill()


def test_the_sample_has_something_for_every_part_and_is_made_once(tmp_path: Path) -> None:
    folder = make_sample(tmp_path / "sample")
    found = set()
    for part in ("inventory", "lint", "tests"):
        run_part(part, folder, tmp_path / "out", lambda line: None)
        value = json.loads((tmp_path / "out" / f"{part}.json").read_text("utf-8"))
        found |= {finding["kind"] for finding in value["findings"]}
    assert found == {
        "no-licence", "python-syntax", "yaml-syntax", "duplicate-key", "mutable-default", "undefined-name",
        "broken-link", "unused-import", "tests-failed",
    }  # fmt: skip
    with pytest.raises(Conflict, match="not empty"):
        make_sample(folder)
