"""The report: what stands first, what is missing, and that no text of a repository can break it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ai_infra.checkup import PARTS
from ai_infra.checkup.findings import Severity, found
from ai_infra.checkup.git import Repo
from ai_infra.checkup.markdown import block, code, table, text
from ai_infra.checkup.report import first_groups, groups_of, judge, render
from ai_infra.checkup.sections import section

HERE = Path("/srv/acme")
REPO = Repo(
    top=HERE, common_dir=HERE / ".git", given=HERE, bare=False, shallow=False, head="a" * 40, branch="main"
)
NOW = datetime(2030, 1, 2, 3, 4, tzinfo=UTC)


def part(name: str, verdict: str = "ok", *findings: Any, head: str | None = "a" * 40) -> dict[str, Any]:
    said = [finding if isinstance(finding, dict) else finding.to_json() for finding in findings]
    return {
        "part": name, "verdict": verdict, "summary": f"{name} was looked at", "findings": said, "data": {},
        "head": head,
    }  # fmt: skip


def everything(**changed: dict[str, Any] | None) -> dict[str, dict[str, Any] | None]:
    names = [name for name in PARTS if name != "report"]
    return {name: part(name) for name in names} | changed


def document(**changed: dict[str, Any] | None) -> str:
    parts = everything(**changed)
    return render(parts, judge(parts), REPO, NOW)


def test_the_overall_verdict_is_the_worst() -> None:
    assert judge(everything()).verdict == "ok"
    assert judge(everything(lint=part("lint", "warn"), host=part("host", "fail"))).verdict == "fail"


def test_a_part_without_a_result_is_unknown_and_said_to_be() -> None:
    result = judge(everything(lint=None))
    assert result.verdict == "unknown"
    assert result.data["missing"] == ["lint"]
    written = document(lint=None)
    assert "| lint | code | unknown | no result: its task failed or did not run |" in written
    assert "**No result from lint.**" in written
    assert "nothing is known" in written.split("## lint: unknown")[1]


def test_every_part_has_a_row_with_its_agent_and_a_section() -> None:
    written = document()
    for name, info in PARTS.items():
        if name != "report":
            assert f"| {name} | {info.agent} | ok | {name} was looked at |" in written
            assert f"\n## {name}: ok\n" in written
    assert written.startswith("# Check-up of acme: ok\n")
    assert "2030-01-02 03:04 UTC" in written
    assert "Nothing: no part found anything" in written


def test_what_to_do_first_goes_over_all_parts_worst_first_five_at_most() -> None:
    parts = everything(
        lint=part(
            "lint",
            "fail",
            found("python-syntax", "no", "a.py", 1),
            found("broken-link", "no", "b.md", 2),
            found("unused-import", "no", "c.py", 3),
            found("merge-conflict", "no", "d.c", 4),
        ),
        host=part("host", "warn", found("disk", "/: 90 % used")),
        secrets=part("secrets", "fail", found("secret", "token", "e.py", 5)),
        inventory=part("inventory", "warn", found("no-licence", "none"), found("uncommitted", "3")),
    )
    assert [group.kind for group in first_groups(parts)] == [
        "secret", "merge-conflict", "python-syntax", "disk", "no-licence",
    ]  # fmt: skip
    top = render(parts, judge(parts), REPO, NOW).split("## inventory")[0]
    assert "1. **Credentials in the current files** (secrets): `e.py:5` token. Revoke" in top


def test_small_remarks_are_nothing_to_begin_with() -> None:
    assert first_groups(everything(lint=part("lint", "ok", found("unused-import", "x", "a.py")))) == []
    hot = part("measures", "ok", found("hot-spot", "x", "a.py"))
    assert [group.kind for group in first_groups(everything(measures=hot))] == ["hot-spot"]


def test_a_warning_comes_before_a_remark_of_a_better_rank() -> None:
    remark = part("measures", "ok", found("hot-spot", "large", "a.py"))
    parts = everything(measures=remark, host=part("host", "warn", found("reboot", "pending")))
    assert [group.kind for group in first_groups(parts)] == ["reboot", "hot-spot"]


def test_a_fault_in_test_data_is_nothing_to_begin_with() -> None:
    remark = part("lint", "ok", found("merge-conflict", "has markers", "tests/a.py", severity=Severity.INFO))
    assert first_groups(everything(lint=remark)) == []


def test_several_findings_of_a_kind_are_one_entry_with_a_count() -> None:
    many = [found("unused-import", f"m{n} is imported but not used", f"f{n}.py", n) for n in range(1, 8)]
    rest = {**found("unused-import", "and 30 more").to_json(), "more": 30}
    (group,) = groups_of("lint", part("lint", "ok", *many, rest))
    assert group.total == 37
    written = document(lint=part("lint", "ok", *many, rest))
    assert "- **info** unused imports: 37\n  - `f1.py:1` m1" in written
    assert "  - and 34 more" in written
    assert "f4.py" not in written


def test_a_result_of_another_commit_is_said_to_be() -> None:
    assert "(of another commit, bbbbbbbbbb)" in document(lint=part("lint", head="b" * 40))
    assert "another commit" not in document()


def test_damaged_data_does_not_stop_the_report() -> None:
    damaged = part(
        "lint", "warn", {"kind": "unheard-of", "severity": "fail"}, {"kind": "disk", "severity": "?"}, {}
    )
    written = document(lint=damaged, inventory=part("inventory"), measures=part("measures"))
    assert "The tables of inventory cannot be shown" in written
    assert section("measures", {"answers": 3}) == [
        "", "The tables of measures cannot be shown: `measures.json` is not as expected.",
    ]  # fmt: skip


def test_text_of_a_repository_stays_text() -> None:
    evil = found("broken-link", "links to ![x](http://e.vil/p.png) <script>*b* `c` a|b", "a|`b`.md", 1)
    written = document(lint=part("lint", "warn", evil))
    assert "![x](" not in written
    assert "](http" not in written
    assert "\\<script>" in written
    assert "``a\\|`b`.md:1``" in written


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain", "plain"),
        ("a\nb", "a b"),
        ("*x*", "\\*x\\*"),
        ("[a](b)", "[a]\\(b)"),
        ("a<b", "a\\<b"),
        (3, "3"),
    ],
)
def test_escaped_text(value: object, expected: str) -> None:
    assert text(value) == expected


def test_code_spans_hold_any_backticks() -> None:
    assert code("a") == "`a`"
    assert code("a`b") == "``a`b``"
    assert code("`a``") == "``` `a`` ```"
    assert code("") == ""


def test_blocks_cannot_be_ended_from_inside() -> None:
    assert block("a\n```\nb") == ["````text", "a", "```", "b", "````"]


def test_tables_have_numbers_to_the_right_and_nothing_for_none() -> None:
    assert table(("a", "b"), [("x", 1234), ("y", None), ("z", 1.25)]) == [
        "| a | b |", "|---|---:|", "| x | 1,234 |", "| y |  |", "| z | 1.2 |",
    ]  # fmt: skip
    assert table(("a",), []) == []
