"""Detect: which test suites a repository has, from its files alone. Pure; nothing is run to find out."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from ai_infra.checkup.languages import is_fixture, is_vendored

Read = Callable[[str], str]  #: the text of a file; empty when it cannot be read


class Runner(StrEnum):
    """What runs a suite."""

    PYTEST = "pytest"
    UNITTEST = "unittest"
    NPM = "npm test"
    GO = "go test"
    CARGO = "cargo test"
    MAKE = "make"
    OTHER = "other"  #: known, but not run by the check-up


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A test suite; `target` is what to run of it (a folder, a make target), empty for all."""

    runner: Runner
    folder: str = ""  #: where to run it, relative to the top
    target: str = ""
    note: str = ""  #: what a reader should know

    @property
    def name(self) -> str:
        """For people: `pytest tests/unit`, `npm test in web`."""
        words = f"{self.note if self.runner == Runner.OTHER else self.runner} {self.target}".strip()
        return f"{words} in {self.folder}" if self.folder else words


MANIFESTS = ("pyproject.toml", "setup.py", "setup.cfg", "pytest.ini", "package.json", "go.mod", "Cargo.toml")
INSTALLS = re.compile(
    r"\b(pip3? install|uv (pip |sync)|poetry install|npm (install|ci|i)\b|yarn install|pnpm install|npx "
    r"|apt(-get)? |brew |git clone|curl |wget |docker |podman |cargo install|go install|sudo )"
)
_NO_TEST = re.compile(r"no test specified|^[ \t]*(true|:|exit 0|echo\b[^&|;]*)?\s*$")
_PYTHON_TEST = re.compile(r"(^|/)(test_[^/]*|[^/]*_test)\.py$")
_OTHERS = (
    ("PHPUnit", r"phpunit\.xml(\.dist)?"),
    ("Maven", r"pom\.xml"),
    ("Gradle", r"build\.gradle(\.kts)?"),
    ("RSpec", r"\.rspec"),
    ("ExUnit", r"mix\.exs"),
    (".NET", r"[^/]+\.sln"),
    ("CTest", r"CTestTestfile\.cmake"),
    ("Bats", r"tests?/[^/]+\.bats"),
    ("Dart", r"pubspec\.yaml"),
    ("Swift", r"Package\.swift"),
    ("Bazel", r"(MODULE\.bazel|WORKSPACE)"),
)


def detect(files: Sequence[str], read: Read) -> list[Suite]:
    """Every suite found: at the top, then in the folders below that are projects of their own."""
    names = set(files)
    suites: list[Suite] = []
    for folder in _projects(files):
        here = [s for s in _in_folder(folder, names, read) if not _covered(s, suites)]
        suites += here
    if not suites:
        suites += _make(names, read)
    return suites or [Suite(runner=Runner.OTHER, note=name) for name in _others(files)]


def _projects(files: Sequence[str]) -> list[str]:
    """The top, and the folders at most two deep that have a manifest."""
    folders = {""}
    for file in files:
        folder, _, name = file.rpartition("/")
        if name in MANIFESTS and folder.count("/") < 2 and not is_vendored(file) and not is_fixture(file):
            folders.add(folder)
    return sorted(folders, key=lambda folder: (folder.count("/") + bool(folder), folder))


def _covered(suite: Suite, found: list[Suite]) -> bool:
    """Whether a suite above runs this one as well: Python, Go and Cargo look into the folders below them."""
    below = [s for s in found if _family(s.runner) == _family(suite.runner)]
    return suite.runner != Runner.NPM and any(_is_above(s.folder, suite.folder) for s in below)


def _family(runner: Runner) -> str:
    return "python" if runner in (Runner.PYTEST, Runner.UNITTEST) else str(runner)


def _is_above(folder: str, other: str) -> bool:
    return folder == "" or other == folder or other.startswith(folder + "/")


def _in_folder(folder: str, names: set[str], read: Read) -> Iterator[Suite]:
    for make in (_python, _npm):
        if (suite := make(folder, names, read)) is not None:
            yield replace(suite, folder=folder)
    if posixpath.join(folder, "go.mod") in names and any(
        n.endswith("_test.go") and _is_above(folder, n) for n in names
    ):
        yield Suite(runner=Runner.GO, folder=folder)
    if posixpath.join(folder, "Cargo.toml") in names:
        yield Suite(runner=Runner.CARGO, folder=folder)


def _python(folder: str, names: set[str], read: Read) -> Suite | None:
    inside = sorted(n for n in names if _is_above(folder, n))
    tests = [n for n in inside if _PYTHON_TEST.search(n) and not is_vendored(n)]
    if not tests:
        return None
    configured = any(
        re.search(pattern, read(posixpath.join(folder, name)))
        for name, pattern in _PYTEST_CONFIG.items()
        if posixpath.join(folder, name) in names
    )
    configured = configured or any(posixpath.basename(n) == "conftest.py" for n in inside)
    texts = [read(test) for test in tests[:200]]
    uses_pytest = configured or any(
        re.search(r"^[ \t]*(import|from) pytest\b", text, re.MULTILINE) for text in texts
    )
    uses_unittest = any(re.search(r"^[ \t]*(import|from) unittest\b", text, re.MULTILINE) for text in texts)
    if not uses_pytest and uses_unittest:
        return Suite(runner=Runner.UNITTEST, target=_unittest_folder(folder, tests))
    quick = posixpath.join(folder, "tests/unit")
    if any(_is_above(quick, test) for test in tests):
        return Suite(
            runner=Runner.PYTEST, target="tests/unit", note="only the quick ones in tests/unit were run"
        )
    return Suite(runner=Runner.PYTEST)


_PYTEST_CONFIG = {
    "pytest.ini": r"",
    ".pytest.ini": r"",
    "pyproject.toml": r"\[tool\.pytest",
    "tox.ini": r"(?m)^\[pytest\]",
    "setup.cfg": r"(?m)^\[tool:pytest\]",
}


def _unittest_folder(folder: str, tests: list[str]) -> str:
    """The folder under the project in which discovery begins."""
    firsts = {posixpath.relpath(test, folder or ".").partition("/")[0] for test in tests}
    for name in ("tests", "test"):
        if name in firsts:
            return name
    folders = {posixpath.dirname(posixpath.relpath(test, folder or ".")) for test in tests}
    return folders.pop() if len(folders) == 1 else ""


def _npm(folder: str, names: set[str], read: Read) -> Suite | None:
    manifest = posixpath.join(folder, "package.json")
    if manifest not in names:
        return None
    script = npm_script(read(manifest))
    return Suite(runner=Runner.NPM) if script and not _NO_TEST.search(script) else None


def npm_script(manifest: str) -> str:
    """The test script of a package.json; empty without one."""
    try:
        script = json.loads(manifest)["scripts"]["test"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return script if isinstance(script, str) else ""


def npm_needs_modules(manifest: str) -> bool:
    """Whether a package names any dependency."""
    try:
        data = json.loads(manifest)
    except (ValueError, RecursionError):
        return False
    return isinstance(data, dict) and bool(data.get("dependencies") or data.get("devDependencies"))


def _make(names: set[str], read: Read) -> Iterator[Suite]:
    for name in ("GNUmakefile", "makefile", "Makefile"):
        if name in names:
            text = read(name)
            for target in ("test", "check"):
                if re.search(rf"^{target}\s*:(?!=)", text, re.MULTILINE):
                    yield Suite(runner=Runner.MAKE, target=target)
                    return


def _others(files: Sequence[str]) -> Iterator[str]:
    for name, pattern in _OTHERS:
        if any(re.fullmatch(pattern, file) for file in files):
            yield name
