"""Lint: files that cannot be parsed, likely bugs, broken links, and files that are odd.

One pass over the tracked files; every check is a pure function of a path and its bytes (python_syntax,
python_source, parsers, texts, links, tree), except the two that ask bash and node (scripts).
"""

from __future__ import annotations

import posixpath
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ai_infra.checkup import links, parsers, python_source, python_syntax, scripts, texts, tree
from ai_infra.checkup.findings import (
    Finding,
    PartResult,
    Severity,
    Verdict,
    bounded,
    found,
    plural,
    verdict_of,
)
from ai_infra.checkup.git import Repo
from ai_infra.checkup.languages import Language, is_vendored, language_of
from ai_infra.checkup.tracked import Content, Tracked, list_tracked

TIME_S = 60.0  #: after this the rest of the files is left out, and said so

_PROJECT_FILES = {"pyproject.toml", "setup.cfg", "setup.py"}


@dataclass(kw_only=True)
class Pass:
    """What one pass over the files collects."""

    findings: list[Finding] = field(default_factory=list)
    sources: list[python_source.Source] = field(default_factory=list)
    shell: list[scripts.Script] = field(default_factory=list)
    javascript: list[scripts.Script] = field(default_factory=list)
    checked: Counter[str] = field(default_factory=Counter)
    files: int = 0
    left_out: int = 0


def run(repo: Repo, out: Path, say: Any) -> PartResult:
    """The part `lint`."""
    return judge(gather(list_tracked(repo)))


def gather(tracked: Tracked) -> Pass:
    """Read every tracked file once and run the checks that fit."""
    deadline = time.monotonic() + TIME_S
    symlinks = tracked.link_targets()
    paths = links.all_paths([entry.path for entry in tracked.entries])
    done = Pass(findings=list(tree.check_tree(tracked, symlinks, paths)))
    linked = paths | set(_through_links(symlinks, paths))
    oldest = python_syntax.oldest_supported(_project_files(tracked))
    for content in tracked.contents():
        if time.monotonic() > deadline:
            done.left_out += 1
            continue
        done.files += 1
        _check(content, done, linked, oldest)
    done.findings += python_source.unused_imports(done.sources)
    done.findings += scripts.check_shell(done.shell)
    done.findings += scripts.check_javascript(done.javascript)
    if done.left_out:
        done.findings.append(found("not-judged", f"{plural(done.left_out, 'file')}: the time was up"))
    return done


def judge(done: Pass) -> PartResult:
    """The verdict over what the checks found."""
    kept, counts = bounded(done.findings)
    severities = Counter(finding.severity for finding in done.findings)
    if not done.files:
        summary = "no tracked files, so nothing to check"
    else:
        words = [f"{count:,} {word}" for word, count in _said(severities)]
        summary = f"{plural(done.files, 'file')} checked: {', '.join(words) or 'nothing to complain about'}"
    return PartResult(
        part="lint",
        verdict=verdict_of(done.findings) if done.files else Verdict.UNKNOWN,
        summary=summary,
        findings=kept,
        data={"files": done.files, "parsed": dict(sorted(done.checked.items())), "counts": counts},
    )


def _said(severities: Counter[Severity]) -> Iterator[tuple[str, int]]:
    for severity, word in (
        (Severity.FAIL, "broken"),
        (Severity.WARN, "likely wrong"),
        (Severity.INFO, "untidy"),
    ):
        if severities[severity]:
            yield word, severities[severity]


def _check(content: Content, done: Pass, paths: set[str], oldest: tuple[int, int] | None) -> None:
    path, data = content.entry.path, content.data
    language = language_of(path, data)
    done.findings += tree.check_entry(content, language)
    if data is None:
        return
    done.findings += texts.check_text(path, data, language)
    if is_vendored(path):
        return
    name = language.name if language else ""
    if name == "Python":
        done.checked["Python"] += 1
        _check_python(path, data, done, oldest)
    elif (check := parsers.checker_for(path)) is not None:
        done.checked[name or "other"] += 1
        done.findings += check(path, data)
    elif name == "Markdown":
        done.checked["Markdown"] += 1
        done.findings += links.check_links(path, data.decode("utf-8", "replace"), paths)
    else:
        _collect_script(path, data, language, done)


def _check_python(path: str, data: bytes, done: Pass, oldest: tuple[int, int] | None) -> None:
    parsed = python_syntax.parse(path, data, oldest)
    done.findings += parsed.findings
    if parsed.tree is not None:
        source = python_source.check(path, parsed.tree, data.decode("utf-8", "replace"))
        done.sources.append(source)
        done.findings += source.findings


def _collect_script(path: str, data: bytes, language: Language | None, done: Pass) -> None:
    if scripts.is_bash(path, data):
        done.checked["Shell"] += 1
        done.shell.append(scripts.Script(path=path, data=data))
    elif scripts.is_javascript(path, data):
        done.checked["JavaScript"] += 1
        done.javascript.append(scripts.Script(path=path, data=data))


def _project_files(tracked: Tracked) -> dict[str, bytes]:
    found_files: dict[str, bytes] = {}
    wanted = tuple(entry for entry in tracked.entries if entry.path in _PROJECT_FILES)
    for content in Tracked(repo=tracked.repo, entries=wanted, unmerged=()).contents():
        if content.data is not None:
            found_files[content.entry.path] = content.data
    return found_files


def _through_links(symlinks: dict[str, str], paths: set[str]) -> Iterator[str]:
    """Paths that exist by way of a linked folder: `docs/x.md` where `docs` points to `doc`."""
    for link, target in symlinks.items():
        folder = posixpath.normpath(posixpath.join(posixpath.dirname(link), target))
        yield from (link + path[len(folder) :] for path in paths if path.startswith(folder + "/"))
