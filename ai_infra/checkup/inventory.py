"""Inventory: what the repository is made of, whose it is, and in what state it lies here."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ai_infra.checkup import licences, remotes
from ai_infra.checkup.facts import Facts, Files, gather
from ai_infra.checkup.findings import (
    Finding,
    PartResult,
    Verdict,
    bounded,
    found,
    plural,
    shown,
    verdict_of,
)
from ai_infra.checkup.git import Repo
from ai_infra.checkup.languages import Sort

DORMANT_DAYS = 730
MANY_COMMITS = 100  #: from here on a bus factor of 1 is worth a word


def run(repo: Repo, out: Path, say: Any) -> PartResult:
    """The part `inventory`."""
    return judge(gather(repo, time.time()))


def judge(facts: Facts) -> PartResult:
    """Findings, one sentence, and the tables, from the facts alone."""
    findings = [
        *remotes.judge_settings(facts.settings),
        *_judge_history(facts),
        *_judge_licence(facts.files),
        *_judge_status(facts),
        *_judge_files(facts),
    ]
    kept, counts = bounded(findings)
    empty = facts.head is None and facts.files.files == 0
    return PartResult(
        part="inventory",
        verdict=Verdict.UNKNOWN if empty else verdict_of(findings),
        summary=_summary(facts),
        findings=kept,
        data=_data(facts) | {"counts": counts},
    )


def _judge_history(facts: Facts) -> list[Finding]:
    past, findings = facts.history, []
    if facts.head is None:
        findings.append(found("no-commits", "the repository has no commits yet"))
    if facts.shallow:
        findings.append(
            found("shallow", f"this clone holds {plural(past.commits, 'commit')} only; the history is cut")
        )
    elif past.bus_factor == 1 and past.commits >= MANY_COMMITS and past.authors > 1:
        words = f"one person made more than half of the commits ({past.bus_window}; {past.authors} authors)"
        findings.append(found("bus-factor", words))
    if past.idle_days is not None and past.idle_days > DORMANT_DAYS:
        findings.append(
            found("dormant", f"the last commit is from {past.last_at}, {past.idle_days} days ago")
        )
    return findings


def _judge_licence(files: Files) -> list[Finding]:
    known = {name for _, name in files.licence_files if name}
    findings = [
        found("licence-unknown", "licence text not recognized", file)
        for file, name in files.licence_files
        if name is None
    ]
    for file, words in files.metadata.items():
        if known and not licences.agrees(words, known):
            message = f"names the licence {words!r}, but the licence text is {', '.join(sorted(known))}"
            findings.append(found("licence-mismatch", message, file))
    if files.files and not files.licence_files:
        if not files.metadata:
            findings.append(
                found("no-licence", "no LICENSE or COPYING file, and no metadata names a licence")
            )
        else:
            file, words = next(iter(files.metadata.items()))
            findings.append(
                found("licence-mismatch", f"names the licence {words!r}, but its text is missing", file)
            )
    return findings


def _judge_status(facts: Facts) -> list[Finding]:
    status = facts.status
    if status is None:
        return []
    findings = [found("unmerged", "is in the middle of a merge", file) for file in status.unmerged]
    parts = [("staged", status.staged), ("modified", status.modified), ("untracked", status.untracked)]
    if any(count for _, count in parts):
        words = ", ".join(f"{count} {word}" for word, count in parts if count)
        findings.append(found("uncommitted", f"uncommitted: {words}"))
    if status.ahead:
        findings.append(
            found("unpushed", f"{plural(status.ahead, 'commit')} not pushed to the upstream branch")
        )
    return findings


def _judge_files(facts: Facts) -> list[Finding]:
    files, findings = facts.files, []
    if files.modules and not files.known_modules:
        findings += [
            found("submodule-unknown", "is a submodule, but there is no .gitmodules", f)
            for f in files.modules
        ]
    if files.files and not files.readme:
        findings.append(found("no-readme", "there is no README"))
    return findings


def _summary(facts: Facts) -> str:
    files, past = facts.files, facts.history
    if facts.head is None and not files.files:
        return "an empty repository: no commits, no tracked files"
    main = " and ".join(_main_languages(files)) or "no code"
    licence = ", ".join(sorted({name or "unrecognized" for _, name in files.licence_files}))
    licence = licence or ", ".join(sorted(set(files.metadata.values()))) or "none"
    return (
        f"{plural(files.files, 'file')}, mostly {main}; {plural(past.commits, 'commit')}"
        f" by {plural(past.authors, 'person', 'people')}{' (shallow)' if facts.shallow else ''};"
        f" licence: {licence}"
    )


def _main_languages(files: Files) -> list[str]:
    """The languages that hold a fifth of the lines of code or more, two at most."""
    code = [row for row in files.languages if row.sort == Sort.CODE]
    total = sum(row.lines for row in code)
    return [row.language for row in code[:2] if 5 * row.lines >= total]


def _data(facts: Facts) -> dict[str, Any]:
    places = remotes.parse_remotes(facts.settings)
    return {
        "languages": [asdict(row) for row in facts.files.languages],
        "history": asdict(facts.history) | {"shallow": facts.shallow},
        "branch": None if facts.branch is None else shown(facts.branch),
        "default_branch": None if facts.default_branch is None else shown(facts.default_branch),
        "branches": facts.branches,
        "remote_branches": facts.remote_branches,
        "tags": facts.tags,
        "bare": facts.bare,
        "files": facts.files.files,
        "size_bytes": facts.files.size_bytes,
        "git_bytes": facts.git_bytes,
        "binary_files": facts.files.binary,
        "vendored_files": facts.files.vendored,
        "links": facts.files.links,
        "submodules": list(facts.files.modules),
        "largest": [{"file": file, "size_bytes": size} for file, size in facts.files.largest],
        "licences": [{"file": file, "licence": name} for file, name in facts.files.licence_files],
        "metadata_licences": facts.files.metadata,
        "remotes": sorted({f"{remotes.name_of(r)}: {r.host}" for r in places if r.key.startswith("remote.")}),
        "status": None if facts.status is None else asdict(facts.status),
    }
