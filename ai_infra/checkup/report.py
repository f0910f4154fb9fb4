"""Report: the parts that are there, joined into one document that can be sent to a colleague.

What a person should do first stands at the top, over all parts; every part follows with its findings, worst
first, and its tables (sections.py). A part without a result is unknown, and said to be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ai_infra.checkup import PARTS, results, sections
from ai_infra.checkup.findings import PartResult, Severity, Verdict, plural, worst
from ai_infra.checkup.git import Repo
from ai_infra.checkup.kinds import KINDS
from ai_infra.checkup.markdown import code, table, text
from ai_infra.core import durable

DOCUMENT = "report.md"
FIRST = 5  #: things to do first
WORTH_RANK = 30  #: a remark of a higher rank is nothing to begin with
GROUPS = 14  #: kinds shown of one part
PLACES = {Severity.FAIL: 8, Severity.WARN: 5, Severity.INFO: 3}  #: places shown of one kind

_IN_TABLES = {"hot-spot", "long-function", "complex-function"}

Result = dict[str, Any]  #: a PART.json as results.read() gives it


@dataclass(frozen=True, kw_only=True)
class Group:
    """The findings of one kind and severity in one part."""

    part: str
    kind: str
    severity: Severity
    findings: tuple[dict[str, Any], ...]
    total: int

    @property
    def weight(self) -> tuple[int, int]:
        """Sort key: what to look at first."""
        return -list(Severity).index(self.severity), KINDS[self.kind].rank


def run(repo: Repo, out: Path, say: Any) -> PartResult:
    """The part `report`; leaves `out/report.md` and shows it."""
    parts = {part: results.read(out, part) for part in PARTS if part != "report"}
    result = judge(parts)
    document = render(parts, result, repo, datetime.now(UTC))
    durable.write_text(out / DOCUMENT, document)
    say(document.rstrip("\n"))
    return result


def judge(parts: Mapping[str, Result | None]) -> PartResult:
    """The overall verdict: the worst of the parts, where one that is missing is unknown."""
    verdicts = {part: verdict_in(result) for part, result in parts.items()}
    overall = worst(verdicts.values())
    groups = first_groups(parts)
    counts = {verdict: list(verdicts.values()).count(verdict) for verdict in reversed(Verdict)}
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    return PartResult(
        part="report",
        verdict=overall,
        summary=f"{plural(len(parts), 'part')}: {summary}",
        data={
            "parts": {part: str(verdict) for part, verdict in verdicts.items()},
            "missing": [part for part, result in parts.items() if result is None],
            "first": [
                {"part": g.part, "kind": g.kind, "count": g.total, "do": KINDS[g.kind].action} for g in groups
            ],
            "document": DOCUMENT,
        },
    )


def render(parts: Mapping[str, Result | None], overall: PartResult, repo: Repo, now: datetime) -> str:
    """The whole document."""
    lines = [f"# Check-up of {text(repo.name)}: {overall.verdict}", ""]
    lines += [
        f"{text(repo.label)}, {now:%Y-%m-%d %H:%M} UTC. {overall.summary[0].upper()}{overall.summary[1:]}.",
        "",
    ]
    rows = [
        [part, PARTS[part].agent, _mark(verdict_in(result)), _sentence(result, repo)]
        for part, result in parts.items()
    ]
    lines += [*table(("part", "agent", "verdict", "in one sentence"), rows), "", "## What to do first", ""]
    lines += _first(parts)
    for part, result in parts.items():
        lines += ["", f"## {part}: {verdict_in(result)}", ""]
        lines += _part(part, result)
    return "\n".join(lines).rstrip("\n") + "\n"


def verdict_in(result: Result | None) -> Verdict:
    """The verdict of a part; unknown without one."""
    return Verdict(result["verdict"]) if result else Verdict.UNKNOWN


def groups_of(part: str, result: Result | None) -> list[Group]:
    """The findings of a part by kind and severity, worst first; unknown kinds are left out."""
    found: dict[tuple[str, Severity], list[dict[str, Any]]] = {}
    for finding in (result or {}).get("findings", []):
        if finding.get("kind") in KINDS and finding.get("severity") in set(Severity):
            found.setdefault((finding["kind"], Severity(finding["severity"])), []).append(finding)
    groups = [
        Group(
            part=part,
            kind=kind,
            severity=severity,
            findings=tuple(f for f in findings if not f.get("more")),
            total=sum(f.get("more") or 1 for f in findings),
        )
        for (kind, severity), findings in found.items()
    ]
    return sorted(groups, key=lambda group: group.weight)


def first_groups(parts: Mapping[str, Result | None]) -> list[Group]:
    """What to do first, over all parts: failures and warnings, then remarks worth the time."""
    groups = [group for part, result in parts.items() for group in groups_of(part, result)]
    return sorted(filter(_is_worth, groups), key=lambda group: group.weight)[:FIRST]


def _is_worth(group: Group) -> bool:
    """Not a small remark, nor one that would be more than a remark elsewhere (a fault in test data)."""
    kind = KINDS[group.kind]
    return group.severity != Severity.INFO or (kind.severity == Severity.INFO and kind.rank < WORTH_RANK)


def _mark(verdict: Verdict) -> str:
    return f"**{verdict}**" if verdict in (Verdict.FAIL, Verdict.WARN) else str(verdict)


def _sentence(result: Result | None, repo: Repo) -> str:
    if result is None:
        return "no result: its task failed or did not run"
    other = f" (of another commit, {str(result.get('head'))[:10]})" if result.get("head") != repo.head else ""
    return text(result["summary"]) + text(other)


def _first(parts: Mapping[str, Result | None]) -> list[str]:
    missing = [part for part, result in parts.items() if result is None]
    said = []
    for group in first_groups(parts)[: FIRST - bool(missing)]:
        example, action = _example(group).rstrip("."), KINDS[group.kind].action
        said.append(f"**{_title(group)}** ({group.part}){example}. {action}")
    if missing:
        said.append(f"**No result from {', '.join(missing)}.** {KINDS['part-missing'].action}")
    if not said:
        return ["Nothing: no part found anything that has to be done."]
    return [f"{number}. {words}" for number, words in enumerate(said, 1)]


def _title(group: Group) -> str:
    title = _upper(KINDS[group.kind].title)
    return title if group.total == 1 else f"{title}: {group.total:,}"


def _upper(words: str) -> str:
    return words[:1].upper() + words[1:]


def _example(group: Group) -> str:
    """Where the first few are, or what they say."""
    first = group.findings[:3]
    if group.total == 1:
        return f": {_line(first[0])}" if first else ""
    places = list(dict.fromkeys(_place(finding) for finding in first))
    # Several findings in one place differ by what they say.
    apart = all(places) and len(places) == len(first)
    said = [code(place) for place in places] if apart else [_line(finding) for finding in first[:2]]
    return ": " + ", ".join(said) + (", …" if group.total > len(said) else "")


def _part(part: str, result: Result | None) -> list[str]:
    if result is None:
        return ["There is no result of this part: its task failed or did not run, so nothing is known."]
    lines = [f"{_upper(text(result['summary']))}.", ""]
    groups = groups_of(part, result)
    for group in groups[:GROUPS]:
        lines += _group(group)
    if len(groups) > GROUPS:
        lines.append(f"- and {len(groups) - GROUPS} more kinds of remarks in `{part}.json`")
    if not groups:
        lines.append("No findings.")
    return [*lines, *sections.section(part, result["data"])]


def _group(group: Group) -> list[str]:
    if group.total == 1 and group.findings:
        return [f"- **{group.severity}** {_line(group.findings[0])}"]
    lines = [f"- **{group.severity}** {KINDS[group.kind].title}: {group.total:,}"]
    if group.kind in _IN_TABLES:
        return [f"{lines[0]}, see the tables"]
    shown = group.findings[: PLACES[group.severity]]
    lines += [f"  - {_line(finding)}" for finding in shown]
    more = group.total - len(shown)
    return [*lines, f"  - and {more:,} more"] if more > 0 else lines


def _line(finding: Mapping[str, Any]) -> str:
    place = _place(finding)
    message = text(finding.get("message", ""))
    return f"{code(place)} {message}" if place else message


def _place(finding: Mapping[str, Any]) -> str:
    return ":".join(str(finding[key]) for key in ("file", "line") if finding.get(key) is not None)
