"""Texts: what can be wrong with any text file, whatever its language. Pure."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator

from ai_infra.checkup.findings import Finding, Severity, found, plural
from ai_infra.checkup.languages import Language, Sort, is_fixture, is_generated, is_test, is_vendored

LONG_LINE = 1000  #: characters

_MARKER = re.compile(rb"^(?:<{7} |={7}\r?$|>{7} )", re.MULTILINE)
_OTHER_CHARSET = re.compile(rb"charset|encoding|coding[:=]", re.IGNORECASE)
_BOMS = (b"\xff\xfe", b"\xfe\xff")


def check_text(path: str, data: bytes, language: Language | None) -> Iterator[Finding]:
    """Every finding about one file's bytes; binary files of an unknown language have none."""
    if b"\0" in data:
        yield from _check_nul(path, data, language)
        return
    yield from check_conflict(path, data)
    if language is None or is_vendored(path) or is_fixture(path):
        return
    if language.name == "Python":
        yield from check_indentation(path, data)
    if not is_test(path):
        yield from _check_encoding(path, data)
        yield from _check_line_ends(path, data)
        if language.sort == Sort.CODE:
            yield from _check_long_lines(path, data)


def check_conflict(path: str, data: bytes) -> Iterator[Finding]:
    """The three markers of an unfinished merge, in their order, each at the start of a line."""
    if b"<<<<<<< " not in data or b"\n>>>>>>> " not in data:
        return
    start = wanted = 0  # how many of the three markers were seen, and where the first was
    for match in _MARKER.finditer(data):
        sort = b"<=>".index(match[0][:1])
        if sort == 0:
            start, wanted = match.start(), 1
        elif sort == wanted == 2:
            line = data.count(b"\n", 0, start) + 1
            severity = Severity.INFO if is_test(path) else None
            yield found("merge-conflict", "has merge-conflict markers", path, line, severity)
            return
        elif sort == wanted == 1:
            wanted = 2


def check_indentation(path: str, data: bytes) -> Iterator[Finding]:
    """A Python file where some blocks are indented with tabs and others with spaces."""
    if not re.search(rb"^\t", data, re.MULTILINE) or not re.search(rb"^ ", data, re.MULTILINE):
        return
    seen: dict[str, int] = {}
    try:
        for token in tokenize.tokenize(io.BytesIO(data).readline):
            if token.type == tokenize.INDENT:
                seen.setdefault("tabs" if "\t" in token.string else "spaces", token.start[0])
    except (tokenize.TokenError, SyntaxError, ValueError):  # the compiler says it better
        return
    if len(seen) == 2:
        words = f"is indented with tabs (line {seen['tabs']}) and with spaces (line {seen['spaces']})"
        yield found("mixed-indent", words, path, max(seen.values()))


def _check_nul(path: str, data: bytes, language: Language | None) -> Iterator[Finding]:
    if language is None or language.sort == Sort.DATA:
        return
    severity = Severity.INFO if is_test(path) else None
    if data.startswith(_BOMS):
        yield found("not-utf-8", f"{language.name} in UTF-16", path, 1)
        return
    place = data.index(b"\0")
    at_end = not data[place:].strip(b"\0\r\n")
    rest = data.replace(b"\0", b"")
    if not _is_utf_8(rest) or (not at_end and 3 * data.count(b"\0") > len(data)):
        return  # a binary format that shares the extension
    trailing = " at its end, as after a crash" if at_end else ""
    words = f"has {plural(data.count(0), 'NUL byte')}{trailing}"
    yield found("nul-bytes", words, path, data.count(b"\n", 0, place) + 1, severity)


def _check_encoding(path: str, data: bytes) -> Iterator[Finding]:
    if _is_utf_8(data) or _OTHER_CHARSET.search(data[:2000]) or path.endswith((".properties", ".po")):
        return
    line = next((n for n, row in enumerate(data.split(b"\n"), 1) if not _is_utf_8(row)), None)
    yield found("not-utf-8", "is not UTF-8 and names no other encoding", path, line)


def _check_line_ends(path: str, data: bytes) -> Iterator[Finding]:
    pairs = data.count(b"\r\n")
    single = data.count(b"\n") - pairs
    if pairs and single:
        yield found("mixed-line-ends", f"mixes {pairs:,} CRLF and {single:,} LF line ends", path)


def _check_long_lines(path: str, data: bytes) -> Iterator[Finding]:
    lengths = [len(line) for line in data.split(b"\n")]
    longest = max(lengths)
    if longest > LONG_LINE and not is_generated(path, data):
        count = sum(length > LONG_LINE for length in lengths)
        words = f"{plural(count, 'line')} over {LONG_LINE:,} characters, the longest has {longest:,}"
        yield found("long-lines", words, path, lengths.index(longest) + 1)


def _is_utf_8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
