"""Test suites: which are found, and what their output says."""

from __future__ import annotations

import textwrap

import pytest

from ai_infra.checkup.counts import count
from ai_infra.checkup.detect import INSTALLS, Runner, detect, npm_needs_modules, npm_script
from ai_infra.checkup.outcomes import Ending, read_outcome
from ai_infra.checkup.suites import Run, Suite, judge


def suites(files: dict[str, str]) -> list[tuple[str, str, str]]:
    found = detect(sorted(files), lambda name: files.get(name, ""))
    return [(str(suite.runner), suite.folder, suite.target or suite.note) for suite in found]


PYTEST = "import pytest\n\ndef test_a(): ...\n"
UNITTEST = "import unittest\n\nclass A(unittest.TestCase): ...\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"tests/test_a.py": PYTEST}, [("pytest", "", "")]),
        ({"tests/test_a.py": "def test_a(): ...\n"}, [("pytest", "", "")]),
        ({"tests/unit/test_a.py": PYTEST, "tests/e2e/test_b.py": ""}, [("pytest", "", "tests/unit")]),
        ({"tests/test_a.py": UNITTEST}, [("unittest", "", "tests")]),
        ({"tests/test_a.py": UNITTEST, "conftest.py": ""}, [("pytest", "", "")]),
        ({"tests/test_a.py": UNITTEST, "setup.cfg": "[tool:pytest]\n"}, [("pytest", "", "")]),
        ({"pkg/a_test.py": UNITTEST}, [("unittest", "", "pkg")]),
        ({"package.json": '{"scripts": {"test": "jest"}}'}, [("npm test", "", "")]),
        ({"package.json": '{"scripts": {"test": "echo \\"Error: no test specified\\" && exit 1"}}'}, []),
        ({"package.json": '{"scripts": {}}', "Makefile": "all:\n"}, []),
        ({"package.json": "{"}, []),
        ({"go.mod": "", "a_test.go": ""}, [("go test", "", "")]),
        ({"go.mod": ""}, []),
        ({"Cargo.toml": ""}, [("cargo test", "", "")]),
        ({"Makefile": "all:\n\ncheck: all\n\ttrue\n"}, [("make", "", "check")]),
        ({"Makefile": "test := 1\ntests:\n"}, []),
        ({"Makefile": "test:\n", "tests/test_a.py": PYTEST}, [("pytest", "", "")]),
        ({"phpunit.xml.dist": ""}, [("other", "", "PHPUnit")]),
        ({"test/a.bats": ""}, [("other", "", "Bats")]),
        ({"src/a.py": ""}, []),
    ],
)
def test_what_is_found(files: dict[str, str], expected: list[tuple[str, str, str]]) -> None:
    found = suites(files)
    if expected and expected[0][2] == "tests/unit":
        assert found[0][2] == "tests/unit"
    else:
        assert found == expected


def test_projects_below_the_top_are_found_once_and_not_in_dependencies() -> None:
    files = {
        "api/pyproject.toml": "",
        "api/tests/test_a.py": PYTEST,
        "web/package.json": '{"scripts": {"test": "vitest"}}',
        "web/node_modules/x/package.json": '{"scripts": {"test": "tap"}}',
        "examples/demo/package.json": '{"scripts": {"test": "tap"}}',
        "rust/Cargo.toml": "",
        "rust/member/Cargo.toml": "",
    }
    # The top sees every test below it, so the project in api/ is not run twice.
    assert suites(files) == [("pytest", "", ""), ("cargo test", "rust", ""), ("npm test", "web", "")]


def test_npm_scripts_and_dependencies() -> None:
    assert npm_script('{"scripts": {"test": 3}}') == ""
    assert npm_needs_modules('{"devDependencies": {"a": "1"}}')
    assert not npm_needs_modules('{"dependencies": {}}')
    assert not npm_needs_modules("[]")


@pytest.mark.parametrize(
    "command", ["pip install -e .", "npm ci && jest", "docker run x", "git clone y", "sudo make"]
)
def test_commands_that_install_are_known(command: str) -> None:
    assert INSTALLS.search(command)


@pytest.mark.parametrize("command", ["pytest tests", "node --test", "jest --coverage", "bats test/"])
def test_commands_that_test_are_not_taken_for_installing(command: str) -> None:
    assert not INSTALLS.search(command)


@pytest.mark.parametrize(
    ("runner", "output", "expected"),
    [
        (
            Runner.PYTEST,
            "..F\n1 failed, 2 passed, 1 skipped in 0.12s\n",
            {"failed": 1, "passed": 2, "skipped": 1},
        ),
        (
            Runner.PYTEST,
            "===== 3 passed, 1 xfailed, 2 warnings in 61.20s (0:01:01) =====",
            {"passed": 3, "expected failures": 1},
        ),
        (Runner.PYTEST, "no summary", {}),
        (
            Runner.UNITTEST,
            "Ran 5 tests in 0.1s\n\nFAILED (failures=1, errors=1, skipped=1)\n",
            {"passed": 2, "failed": 2, "skipped": 1},
        ),
        (Runner.UNITTEST, "Ran 2 tests in 0.1s\n\nOK\n", {"passed": 2, "failed": 0, "skipped": 0}),
        (Runner.GO, "ok  \tx/a\t0.1s\nFAIL\tx/b\t0.2s\nFAIL\n", {"packages passed": 1, "packages failed": 1}),
        (
            Runner.CARGO,
            "test result: ok. 2 passed; 0 failed; 1 ignored\ntest result: ok. 3 passed; 0 failed; 0 ignored",
            {"passed": 5, "failed": 0, "skipped": 1},
        ),
        (Runner.NPM, "Tests:       1 failed, 2 passed, 3 total\n", {"failed": 1, "passed": 2}),
        (Runner.NPM, "  12 passing (1s)\n  1 failing\n", {"passed": 12, "failed": 1}),
        (Runner.NPM, "# tests 3\n# pass 2\n# fail 1\n", {"passed": 2, "failed": 1}),
        (Runner.NPM, "\u2139 pass 4\n\u2139 fail 0\n", {"passed": 4, "failed": 0}),
        (Runner.MAKE, "1..2\nok 1 - a\nnot ok 2 - b\n", {"passed": 1, "failed": 1}),
    ],
)
def test_counts(runner: Runner, output: str, expected: dict[str, int]) -> None:
    assert count(runner, output) == expected


FAILED = (
    "FAILED tests/test_a.py::test_b[x y] - AssertionError: no\n"
    "ERROR tests/test_c.py::test_d\n1 failed, 1 error in 1.00s\n"
)
NO_NUMPY = "E   ModuleNotFoundError: No module named 'numpy.x'\n1 error in 1.0s"
NO_OWN = "E   ModuleNotFoundError: No module named 'own.x'\n1 error in 1.0s"
NOT_BUILT = "E   ImportError: No module named own._fast\n1 error in 1.0s"
NO_FIXTURE = "E       fixture 'httpbin' not found\n3 passed, 1 error in 1s"
NO_YAML = (
    "ImportError: Failed to import test module: a\nModuleNotFoundError: No module named 'yaml'\n"
    "Ran 1 test in 0.0s\n\nFAILED (errors=1)\n"
)
ONE_FAILED = "FAIL: test_a (m.A.test_a)\nRan 1 test in 0.0s\n\nFAILED (failures=1)\n"
CARGO_FAILED = "test a::b ... FAILED\ntest result: FAILED. 0 passed; 1 failed; 0 ignored"


@pytest.mark.parametrize(
    ("runner", "code", "output", "ending", "reason"),
    [
        (Runner.PYTEST, 0, "3 passed in 0.1s", Ending.PASSED, ""),
        (Runner.PYTEST, 1, FAILED, Ending.FAILED, ""),
        (Runner.PYTEST, None, "....", Ending.TIMEOUT, ""),
        (Runner.PYTEST, 5, "no tests ran in 0.01s", Ending.NOT_RUN, "no tests were found"),
        (Runner.PYTEST, 2, NO_NUMPY, Ending.NOT_RUN, "missing: numpy"),
        (Runner.PYTEST, 2, NO_OWN, Ending.FAILED, ""),
        (Runner.PYTEST, 2, NOT_BUILT, Ending.NOT_RUN, "not built"),
        (Runner.PYTEST, 2, "E   SyntaxError: bad\n1 error in 1.0s", Ending.FAILED, ""),
        (Runner.PYTEST, 4, "error: unrecognized arguments: --cov=x", Ending.NOT_RUN, "--cov=x"),
        (Runner.PYTEST, 1, NO_FIXTURE, Ending.NOT_RUN, "httpbin"),
        (Runner.UNITTEST, 0, "Ran 0 tests in 0.0s\n\nOK\n", Ending.NOT_RUN, "no tests"),
        (Runner.UNITTEST, 1, NO_YAML, Ending.NOT_RUN, "yaml"),
        (Runner.UNITTEST, 1, ONE_FAILED, Ending.FAILED, ""),
        (Runner.NPM, 127, "sh: 1: jest: not found\n", Ending.NOT_RUN, "missing: jest"),
        (Runner.NPM, 1, "1 failing\n", Ending.FAILED, ""),
        (Runner.CARGO, 101, "error: no matching package named `serde` found", Ending.NOT_RUN, "serde"),
        (Runner.CARGO, 101, CARGO_FAILED, Ending.FAILED, ""),
        (Runner.GO, 1, "x.go:3: no required module provides package y", Ending.NOT_RUN, "module"),
        (Runner.MAKE, 2, "make: cmake: No such file or directory\n", Ending.NOT_RUN, "cmake"),
        (Runner.MAKE, 0, "fine\n", Ending.PASSED, ""),
    ],
)
def test_how_a_run_ended(runner: Runner, code: int | None, output: str, ending: Ending, reason: str) -> None:
    reading = read_outcome(runner, code, output, own={"own"})
    assert reading.ending == ending
    assert reason in reading.reason


def test_failing_tests_have_a_name_a_file_and_a_message() -> None:
    first, second = read_outcome(Runner.PYTEST, 1, FAILED).failures
    assert (first.file, first.name) == ("tests/test_a.py", "tests/test_a.py::test_b[x y]")
    assert first.message == "AssertionError: no"
    assert (second.file, second.failed) == ("tests/test_c.py", False)


@pytest.mark.parametrize(
    ("runner", "output", "name"),
    [
        (Runner.UNITTEST, "FAIL: test_a (m.A.test_a)\n", "test_a (m.A.test_a)"),
        (Runner.GO, "    --- FAIL: TestX/case (0.00s)\n", "TestX/case"),
        (Runner.CARGO, "test a::b ... FAILED\n", "a::b"),
        (Runner.NPM, "not ok 2 - the name # time=1\n", "the name"),
        (Runner.NPM, "  \u25cf sum \u203a adds\n", "sum \u203a adds"),
        (Runner.NPM, "\x1b[31m  1) does it\x1b[0m\n", "does it"),
    ],
)
def test_names_of_what_failed(runner: Runner, output: str, name: str) -> None:
    reading = read_outcome(runner, 1, output)
    assert [failure.name for failure in reading.failures] == [name]


def test_errors_that_a_missing_plugin_explains_do_not_hide_real_failures() -> None:
    output = textwrap.dedent("""
        E       fixture 'httpbin' not found
        FAILED tests/test_a.py::test_b - assert 0
        ERROR tests/test_a.py::test_c
        1 failed, 3 passed, 1 error in 1.00s
    """)
    reading = read_outcome(Runner.PYTEST, 1, output)
    assert [failure.name for failure in reading.failures] == ["tests/test_a.py::test_b"]
    assert reading.reason == "1 error for want of pytest plugins (fixtures: httpbin)"


def run(runner: Runner, code: int | None, output: str) -> Run:
    suite = Suite(runner=runner)
    return Run(suite=suite, command=("x",), reading=read_outcome(runner, code, output), tail=output)


GOOD = run(Runner.PYTEST, 0, "3 passed in 0.1s")
BAD = run(Runner.MAKE, 2, "boom\nit broke\n")
NOTHING = run(Runner.PYTEST, 5, "no tests ran")


@pytest.mark.parametrize(
    ("runs", "verdict"),
    [([], "unknown"), ([GOOD], "ok"), ([GOOD, BAD], "fail"), ([NOTHING], "unknown"), ([NOTHING, GOOD], "ok")],
)
def test_the_verdict_over_all_suites(runs: list[Run], verdict: str) -> None:
    assert judge(runs).verdict == verdict


def test_a_failure_without_names_shows_the_last_words() -> None:
    result = judge([BAD])
    assert result.findings[0].kind == "suite-failed"
    assert "boom / it broke" in result.findings[0].message
    assert result.data["suites"][0]["ending"] == "failed"
