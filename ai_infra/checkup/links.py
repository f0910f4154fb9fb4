"""Links: relative links in Markdown that lead nowhere. Pure: needs to know which paths exist."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Container, Iterator
from urllib.parse import unquote

from ai_infra.checkup.findings import Finding, Severity, found
from ai_infra.checkup.languages import is_fixture, is_vendored

LINE_CHARS = 10_000  #: a longer line is data

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
_CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)")
_INLINE = re.compile(
    r"\]\(\s*(?:<([^<>\n]+)>|([^\s()<>]*(?:\([^\s()]*\)[^\s()<>]*)*))(?:\s+[\"'(][^\n]*?)?\s*\)"
)
_REFERENCE = re.compile(r"^ {0,3}\[(?!\^)[^\]\n]+\]:\s*(?:<([^<>\n]+)>|(\S+))")
_SCHEME = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]*:|//|#|\?|/)")
_PLACEHOLDER = re.compile(r"[{}$*|\\]|\.\.\.|^(url|link|path|target|href|src|…)$|%s|<|@")
_WITH_EXTENSION = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,9}$")
_SITE_SUFFIXES = (
    ".md",
    ".mdx",
    ".markdown",
    ".rst",
    ".html",
    "/index.md",
    "/README.md",
    "/_index.md",
    "/index.html",
)


def check_links(path: str, text: str, exists: Container[str]) -> Iterator[Finding]:
    """Links to files that are not there; `exists` holds every path of the tree, folders too."""
    if is_fixture(path) or is_vendored(path):
        return
    for target, line in relative_links(text):
        if not _resolves(path, target, exists) and _is_sure(path, target):
            severity = None if _is_front_page(path) else Severity.INFO
            yield found("broken-link", f"links to {target!r}, which does not exist", path, line, severity)


def relative_links(text: str) -> Iterator[tuple[str, int]]:
    """(target, line) of every relative link outside of code and comments."""
    fence = ""
    text = re.sub(r"<!--.*?-->", lambda m: "\n" * m[0].count("\n"), text, flags=re.DOTALL)
    for number, line in enumerate(text.split("\n"), 1):
        opened = _FENCE.match(line)
        if fence:
            if opened and opened[1].startswith(fence) and not line.strip(" `~\r"):
                fence = ""
            continue
        if opened:
            fence = opened[1]
            continue
        if len(line) > LINE_CHARS or (line.startswith(("    ", "\t")) and "](" not in line):
            continue
        for match in (*_INLINE.finditer(_CODE.sub("", line)), *_REFERENCE.finditer(line)):
            target = (match[1] or match[2] or "").strip()
            if target and not _SCHEME.match(target) and not _PLACEHOLDER.search(target):
                yield target, number


def all_paths(files: list[str]) -> set[str]:
    """The files and every folder above one of them."""
    paths = set(files) | {"."}
    for file in files:
        folder = posixpath.dirname(file)
        while folder and folder not in paths:
            paths.add(folder)
            folder = posixpath.dirname(folder)
    return paths


def _resolves(path: str, target: str, exists: Container[str]) -> bool:
    clean = re.split(r"[?#]", target, maxsplit=1)[0]
    for said in {clean, unquote(clean)}:
        place = posixpath.normpath(posixpath.join(posixpath.dirname(path), said))
        place = os.fsdecode(place.encode("utf-8", "surrogateescape"))
        # A link that leaves the repository may be right where the files are published.
        if place.startswith("..") or place in exists:
            return True
        stem = place.removesuffix(".html")
        if any(stem + suffix in exists for suffix in _SITE_SUFFIXES):
            return True
    return False


def _is_sure(path: str, target: str) -> bool:
    """Sites resolve `../page/` in their own way; a file name, or a link on the front page, is clear."""
    clean = re.split(r"[?#]", target, maxsplit=1)[0]
    return _is_front_page(path) or _WITH_EXTENSION.search(clean) is not None


def _is_front_page(path: str) -> bool:
    return "/" not in path or path.rpartition("/")[2].lower().startswith("readme")
