"""Findings and verdicts: the words every part of the check-up speaks.

A finding is one observation about one place, of a known kind (kinds.py). Text that came from the repository
is made safe once, here: `shown()` for paths, `plain()` for messages, so that neither a terminal nor a
Markdown reader nor a JSON parser can be fooled by a file name.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ai_infra.checkup.kinds import KINDS

PER_KIND = 20  #: findings of one kind that are kept; the rest is a count
MESSAGE_CHARS = 240  #: a longer message is cut

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


class Severity(StrEnum):
    """How much one finding matters; the part's verdict follows from the worst."""

    INFO = "info"
    WARN = "warn"
    FAIL = "fail"


class Verdict(StrEnum):
    """What a part says about its subject; unknown means nothing could be said."""

    OK = "ok"
    UNKNOWN = "unknown"
    WARN = "warn"
    FAIL = "fail"


_WORSE = (Verdict.OK, Verdict.UNKNOWN, Verdict.WARN, Verdict.FAIL)
_SEVERE = (Severity.INFO, Severity.WARN, Severity.FAIL)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One observation; `file` is shown text, not a path to open."""

    severity: Severity
    kind: str
    message: str
    file: str | None = None
    line: int | None = None
    more: int = 0  #: this one stands for so many that are left out

    def to_json(self) -> dict[str, Any]:
        """The finding as it stands in PART.json."""
        return ({"more": self.more} if self.more else {}) | {
            "severity": str(self.severity),
            "kind": self.kind,
            "file": self.file,
            "line": self.line,
            "message": self.message,
        }

    @property
    def place(self) -> str:
        """`file:line`, `file`, or nothing."""
        return ":".join(str(part) for part in (self.file, self.line) if part is not None)


@dataclass(frozen=True, kw_only=True)
class PartResult:
    """What one part found; `data` holds JSON values only."""

    part: str
    verdict: Verdict
    summary: str
    findings: Sequence[Finding] = ()
    data: dict[str, Any] = field(default_factory=dict)
    took_s: float = 0.0


def found(
    kind: str,
    message: str,
    file: str | None = None,
    line: int | None = None,
    severity: Severity | None = None,
) -> Finding:
    """A finding of a known kind, at the kind's own severity unless another is given.

    `file` is a path as Python has it.
    """
    level = severity or Severity(KINDS[kind].severity)
    return Finding(
        severity=level,
        kind=kind,
        message=plain(message),
        file=None if file is None else shown(file),
        line=line,
    )


def shown(path: str) -> str:
    """A path as text anybody may print: valid Unicode, one line, no control or direction characters."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return _CONTROL.sub(_escape, text)


def plain(text: str) -> str:
    """A message as one bounded, printable line."""
    text = _CONTROL.sub(" ", text.encode("utf-8", "backslashreplace").decode("utf-8"))
    text = " ".join(text.split())
    return text if len(text) <= MESSAGE_CHARS else text[: MESSAGE_CHARS - 1] + "…"


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of some verdicts; ok when there are none."""
    return max(verdicts, key=_WORSE.index, default=Verdict.OK)


def verdict_of(findings: Iterable[Finding]) -> Verdict:
    """fail, warn or ok, by the most severe finding."""
    severities = {finding.severity for finding in findings}
    if Severity.FAIL in severities:
        return Verdict.FAIL
    return Verdict.WARN if Severity.WARN in severities else Verdict.OK


def by_weight(finding: Finding) -> tuple[int, int, str]:
    """Sort key: severe first, then the kind's rank; within a kind the part's own order stays."""
    return -_SEVERE.index(finding.severity), KINDS[finding.kind].rank, finding.kind


def bounded(findings: Iterable[Finding], per_kind: int = PER_KIND) -> tuple[list[Finding], dict[str, int]]:
    """The findings worst first, at most `per_kind` of one kind and severity, and the count of each kind."""
    everything = sorted(findings, key=by_weight)
    counts = Counter(finding.kind for finding in everything)
    seen: Counter[tuple[str, Severity]] = Counter()
    kept = []
    for finding in everything:
        key = (finding.kind, finding.severity)
        seen[key] += 1
        if seen[key] <= per_kind:
            kept.append(finding)
    kept += [_rest(kind, severity, n - per_kind) for (kind, severity), n in seen.items() if n > per_kind]
    return sorted(kept, key=by_weight), dict(counts)


def _rest(kind: str, severity: Severity, more: int) -> Finding:
    return Finding(severity=severity, kind=kind, message=f"and {more} more of this kind", more=more)


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """`1 file`, `2 files`, `1,234 files`."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    names = {9: "\\t", 10: "\\n", 13: "\\r"}
    return names.get(code) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
