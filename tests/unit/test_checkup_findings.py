"""Findings: safe text, bounds, verdicts; every kind used in the code is in the table."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

import ai_infra.checkup
from ai_infra.checkup.findings import (
    PER_KIND,
    Severity,
    Verdict,
    bounded,
    found,
    plain,
    plural,
    shown,
    verdict_of,
    worst,
)
from ai_infra.checkup.kinds import KINDS

PACKAGE = Path(ai_infra.checkup.__file__).parent


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/b.py", "a/b.py"),
        ("new\nline", "new\\nline"),
        ("tab\there", "tab\\there"),
        ("esc\x1b[31m", "esc\\x1b[31m"),
        ("caf\udce9", "caf\\xe9"),  # a byte that is no UTF-8, as os.fsdecode gives it
        ("right\u202eto left", "right\\u202eto left"),
        ("ümlaut", "ümlaut"),
    ],
)
def test_a_shown_path_is_one_printable_line(path: str, expected: str) -> None:
    assert shown(path) == expected
    shown(path).encode("utf-8")


def test_a_message_is_one_bounded_line() -> None:
    message = plain("one\ntwo\x1b[2J" + "x" * 1000)
    assert "\n" not in message
    assert "\x1b" not in message
    assert len(message) <= 240
    assert message.endswith("…")


def test_findings_are_bounded_by_kind_and_say_how_many_are_left_out() -> None:
    many = [found("unused-import", f"{n} is imported but not used", "a.py", n) for n in range(50)]
    kept, counts = bounded([*many, found("merge-conflict", "has markers", "b.py")])
    assert kept[0].kind == "merge-conflict"
    assert counts == {"unused-import": 50, "merge-conflict": 1}
    assert len(kept) == 1 + PER_KIND + 1
    assert kept[-1].more == 50 - PER_KIND
    assert kept[-1].to_json()["message"] == f"and {50 - PER_KIND} more of this kind"
    assert kept[-1].to_json()["file"] is None


def test_a_finding_is_json_with_the_promised_keys() -> None:
    value = json.loads(json.dumps(found("disk", "full", "/", 3, Severity.FAIL).to_json()))
    assert value == {"severity": "fail", "kind": "disk", "file": "/", "line": 3, "message": "full"}


@pytest.mark.parametrize(
    ("severities", "verdict"),
    [((), "ok"), (("info",), "ok"), (("info", "warn"), "warn"), (("warn", "fail", "info"), "fail")],
)
def test_the_verdict_follows_the_worst_finding(severities: tuple[str, ...], verdict: str) -> None:
    assert verdict_of(found("disk", "x", severity=Severity(s)) for s in severities) == verdict


def test_the_worst_of_no_verdicts_is_ok_and_unknown_is_between_ok_and_warn() -> None:
    assert worst([]) == Verdict.OK
    assert worst([Verdict.OK, Verdict.UNKNOWN]) == Verdict.UNKNOWN
    assert worst([Verdict.WARN, Verdict.UNKNOWN]) == Verdict.WARN
    assert worst([Verdict.WARN, Verdict.FAIL, Verdict.OK]) == Verdict.FAIL


def test_plural() -> None:
    assert [plural(n, "file") for n in (0, 1, 1234)] == ["0 files", "1 file", "1,234 files"]
    assert plural(2, "person", "people") == "2 people"


def used_kinds() -> set[str]:
    """The first argument of every found(…), and every literal that names a kind by its form."""
    kinds = set()
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("found", "syntax", "_found"):
                kinds |= {
                    inner.value
                    for inner in ast.walk(node.args[0])
                    if isinstance(inner, ast.Constant) and isinstance(inner.value, str)
                }
    return kinds


def test_every_kind_in_the_code_is_in_the_table() -> None:
    assert used_kinds() - set(KINDS) == set()
    assert len(used_kinds()) > 40


def test_every_kind_has_a_severity_and_says_what_to_do() -> None:
    for name, kind in KINDS.items():
        assert Severity(kind.severity), name
        assert kind.action.endswith("."), name
        assert kind.title[0] == kind.title[0].strip(), name


def test_importing_the_package_is_light() -> None:
    """A dozen processes start at once: the package itself must not pull in what only its parts need."""
    for line in (PACKAGE / "__init__.py").read_text().splitlines():
        if line.startswith(("import ", "from ")):
            assert "psutil" not in line
            assert "sqlite3" not in line
            assert "yaml" not in line
