"""Tree: what can be wrong with names, modes, links and sizes, before any file is read. Pure."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping

from ai_infra.checkup.findings import Finding, Severity, found, shown
from ai_infra.checkup.languages import Language, Sort, is_test, shebang
from ai_infra.checkup.tracked import EXECUTABLE, Content, Tracked, is_binary

LARGE_BYTES = 5_000_000
LINK_HOPS = 20

_WINDOWS = (".bat", ".cmd", ".exe", ".ps1", ".com", ".vbs")


def check_tree(tracked: Tracked, links: Mapping[str, str], paths: Container[str]) -> Iterator[Finding]:
    """Findings about the index: unfinished merges, symbolic links, names that clash."""
    for path in tracked.unmerged:
        yield found("unmerged", "is in the middle of a merge", path)
    for path in links:
        yield from check_link(path, links, paths)
    yield from check_case([entry.path for entry in tracked.entries])


def check_link(path: str, links: Mapping[str, str], paths: Container[str]) -> Iterator[Finding]:
    """Follow a tracked symbolic link through the tracked names only."""
    severity = Severity.INFO if is_test(path) else None
    place, hops = path, 0
    while (target := links.get(place)) is not None:
        hops += 1
        if target.startswith("/"):
            yield found(
                "outside-symlink", f"points to the absolute path {shown(target)}", path, None, severity
            )
            return
        place = posixpath.normpath(posixpath.join(posixpath.dirname(place), target))
        if place.startswith(".."):
            yield found(
                "outside-symlink", f"points out of the repository: {shown(target)}", path, None, severity
            )
            return
        if hops > LINK_HOPS:
            yield found("broken-symlink", "points to itself, over one or more others", path, None, severity)
            return
    if place not in paths and not _through_link(place, links):
        yield found(
            "broken-symlink", f"points to {shown(links[path])}, which is not tracked", path, None, severity
        )


def check_case(names: list[str]) -> Iterator[Finding]:
    """Names a file system without letter case cannot tell apart."""
    same: dict[str, list[str]] = defaultdict(list)
    for name in names:
        same[name.casefold()].append(name)
    for group in same.values():
        if len(group) > 1:
            others = ", ".join(shown(name) for name in group[1:4])
            yield found("case-clash", f"differs only in letter case from {others}", group[0])


def check_entry(content: Content, language: Language | None) -> Iterator[Finding]:
    """Findings about one file's size and mode."""
    entry, data = content.entry, content.data
    if content.size_bytes is None:
        yield found("missing-file", "is tracked but not on disk", entry.path)
        return
    if content.size_bytes > LARGE_BYTES:
        yield found("large-file", f"is {content.size_bytes / 1e6:,.1f} MB", entry.path)
    if not data or is_binary(data) or is_test(entry.path):
        return
    executable, marked = entry.mode == EXECUTABLE, data.startswith(b"#!/")
    if executable and not marked and not entry.path.lower().endswith(_WINDOWS) and not data.startswith(b"#!"):
        yield found("executable-no-shebang", "is executable but has no shebang", entry.path)
    elif marked and not executable and language is not None and language.sort == Sort.CODE:
        yield found(
            "shebang-not-executable", f"has a shebang ({shebang(data)}) but is not executable", entry.path
        )


def _through_link(place: str, links: Mapping[str, str]) -> bool:
    """Whether a folder on the way is itself a link: then the disk knows better than the index."""
    folder = posixpath.dirname(place)
    while folder:
        if folder in links:
            return True
        folder = posixpath.dirname(folder)
    return False
