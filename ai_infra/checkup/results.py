"""Results: the files PART.json in the folder of one check-up, and what a person reads meanwhile."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from ai_infra.checkup.findings import Finding, PartResult, Severity, Verdict
from ai_infra.checkup.git import Repo
from ai_infra.core import durable

LINES = 25  #: findings shown on the terminal; all kept ones are in the file

_MARKS = {Severity.FAIL: "FAIL", Severity.WARN: "warn", Severity.INFO: "info"}


def say(text: str) -> None:
    """Print for a person, in whatever encoding the terminal has, at once."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def path_of(out: Path, part: str) -> Path:
    """Where `part` writes its result."""
    return out / f"{part}.json"


def prepare(out: Path, part: str) -> None:
    """Make the folder, and remove an older result of `part`: a missing file means that it did not work."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            path_of(out, part).unlink()
    except OSError as exc:
        raise durable.system_problem(out, exc) from exc


def write(out: Path, result: PartResult, repo: Repo) -> None:
    """Write `PART.json`, whole or not at all; what it is about stands beside the result."""
    value = {
        "part": result.part,
        "verdict": str(result.verdict),
        "summary": result.summary,
        "findings": [finding.to_json() for finding in result.findings],
        "data": result.data,
        "took_s": result.took_s,
        "repo": repo.label,
        "head": repo.head,
    }
    text = json.dumps(value, ensure_ascii=False, indent=1)
    durable.write_bytes(path_of(out, result.part), text.encode("utf-8", "backslashreplace") + b"\n")


def read(out: Path, part: str) -> dict[str, Any] | None:
    """The result of `part` as written; None when it is missing or not one of ours."""
    value = durable.read_json(path_of(out, part))
    if value is None or value.get("part") != part or value.get("verdict") not in set(Verdict):
        return None
    good = isinstance(value.get("findings"), list) and isinstance(value.get("data"), dict)
    return value if good and isinstance(value.get("summary"), str) else None


def summary_lines(result: PartResult, out: Path) -> list[str]:
    """What the terminal shows at the end: the worst findings, a line each, and the verdict."""
    lines = [f"  {_line(finding)}" for finding in result.findings[:LINES]]
    more = len(result.findings) - LINES
    if more > 0:
        lines.append(f"  and {more} more lines in {path_of(out, result.part)}")
    return [*lines, f"{result.part}: {result.verdict}: {result.summary} ({result.took_s:.1f} s)"]


def _line(finding: Finding) -> str:
    place = f"{finding.place}: " if finding.file else ""
    return f"{_MARKS[finding.severity]}  {place}{finding.message}"
