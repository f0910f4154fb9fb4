"""Parsers: whether a data file can be read at all, by the parser its users will use. Pure: bytes in.

Findings out.

Nothing is constructed from the content: YAML tags are not resolved, XML entities are not expanded and nothing
outside the file is opened.
"""

from __future__ import annotations

import configparser
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from xml.parsers import expat

import yaml

from ai_infra.checkup.findings import Finding, Severity, found
from ai_infra.checkup.languages import is_test

Check = Callable[[str, bytes], Iterator[Finding]]

_TEMPLATE = re.compile(rb"\{\{|\{%|<%|\$\{\w|<\?php|@@?\w+@@?|\{#")
_JSON_WITH_COMMENTS = re.compile(
    r"(^|/)(tsconfig[^/]*|jsconfig[^/]*|tslint|devcontainer|api-extractor[^/]*|\.eslintrc|\.babelrc|\.jshintrc|\.jscsrc"
    r"|\.swcrc|\.hintrc|babel\.config|deno|rush|turbo|nx|wrangler|biome|typedoc|\.markdownlint|language-configuration"
    r"|renovate|\.renovaterc)(\.json5?|\.jsonc)?$"
    r"|(^|/)\.(vscode|devcontainer|zed)/|\.(jsonc|json5|code-workspace|sublime-[a-z]+|hjson)$|\.eslintrc\.json$",
)
_COMMENTS = re.compile(r'("(?:\\.|[^"\\\n])*")|//[^\n]*|/\*.*?\*/', re.DOTALL)
_TRAILING_COMMA = re.compile(r'("(?:\\.|[^"\\\n])*")|,(\s*[\]}])')
_INI_NAMES = {"setup.cfg", "tox.ini", "pytest.ini", "mypy.ini", ".coveragerc", ".flake8", ".pylintrc",
              "pylintrc", "alembic.ini", ".bumpversion.cfg"}  # fmt: skip


DEPTH = 500  #: levels of YAML; the parser's own time grows with the square of them


class _Entities(Exception):
    """An XML document declares entities; they are not expanded here."""


def checker_for(path: str) -> Check | None:
    """The check for a file's format, by its name."""
    name = path.rpartition("/")[2].lower()
    if name in _INI_NAMES:
        return check_ini
    extension = name[name.rfind(".") :] if "." in name else ""
    return _BY_EXTENSION.get(extension) or _BY_NAME.get(name)


def check_json(path: str, data: bytes) -> Iterator[Finding]:
    """Strict JSON; comments where the tool that reads the file allows them.

    One document a line is fine too.
    """
    text = data.removeprefix(b"\xef\xbb\xbf").decode(json.detect_encoding(data), "replace")
    if not text.strip():
        yield syntax("json-syntax", path, "is empty, which is not JSON", None)
        return
    relaxed = _JSON_WITH_COMMENTS.search(path) is not None
    twice: list[str] = []
    try:
        _load_json(without_comments(text) if relaxed else text, twice)
    except (ValueError, RecursionError) as exc:
        if relaxed or _is_json_lines(text) or is_template(data):
            return
        yield _json_error(path, text, exc)
        return
    for key in sorted(set(twice))[:3]:
        yield found(
            "duplicate-key", f"the key {key!r} stands twice in one object", path, severity=_level(path)
        )
    if data.startswith(b"\xef\xbb\xbf") and not relaxed:
        yield found(
            "json-syntax", "starts with a byte order mark, which JSON parsers refuse", path, 1, Severity.INFO
        )


def check_yaml(path: str, data: bytes) -> Iterator[Finding]:
    """Every document of the stream; any tag is fine; keys that stand twice in one mapping are found too."""
    twice: list[tuple[str, int]] = []
    try:
        _walk_yaml(data, twice)
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else None
        if not is_template(data):
            yield syntax("yaml-syntax", path, " ".join(filter(None, (exc.context, exc.problem))), line)
        return
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as exc:
        if not is_template(data):
            yield syntax("yaml-syntax", path, str(exc).split("\n", 1)[0] or type(exc).__name__, None)
        return
    for key, line in twice[:3]:
        yield found("duplicate-key", f"the key {key!r} stands twice in one mapping", path, line, _level(path))


def check_toml(path: str, data: bytes) -> Iterator[Finding]:
    """TOML 1.0."""
    try:
        tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as exc:
        if is_template(data):
            return
        match = re.search(r"\(at line (\d+), column \d+\)", str(exc))
        line = int(match[1]) if match else None
        yield syntax("toml-syntax", path, re.sub(r"\s*\(at .*\)$", "", str(exc)), line)


def check_xml(path: str, data: bytes) -> Iterator[Finding]:
    """Well-formedness. A document that declares entities is read up to there only."""
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.EntityDeclHandler = _refuse_entities
    try:
        parser.Parse(data, True)
    except _Entities:
        return
    except (expat.ExpatError, ValueError, LookupError) as exc:
        code = getattr(exc, "code", None)
        unknown = {expat.errors.codes[expat.errors.XML_ERROR_UNKNOWN_ENCODING], None}
        if code in unknown or is_template(data):
            return
        message = expat.ErrorString(code) if code is not None else str(exc)
        yield syntax("xml-syntax", path, str(message), getattr(exc, "lineno", None))


def check_ini(path: str, data: bytes) -> Iterator[Finding]:
    """What Python's configparser refuses, for the files it reads."""
    parser = configparser.RawConfigParser(allow_no_value=True, strict=True)
    try:
        parser.read_string(data.decode("utf-8-sig", "surrogateescape"))
    except configparser.DuplicateOptionError as exc:
        message = f"the option {exc.option!r} stands twice in [{exc.section}]"
        yield found("duplicate-key", message, path, exc.lineno, _level(path))
    except configparser.DuplicateSectionError as exc:
        yield found(
            "duplicate-key", f"the section [{exc.section}] stands twice", path, exc.lineno, _level(path)
        )
    except configparser.MissingSectionHeaderError as exc:
        if not is_template(data):
            yield syntax("ini-syntax", path, "a line stands before the first [section]", exc.lineno)
    except configparser.ParsingError as exc:
        if not is_template(data):
            line = exc.errors[0][0] if exc.errors else None
            yield syntax("ini-syntax", path, "is neither `key = value` nor a [section]", line)


def is_template(data: bytes) -> bool:
    """Whether a file is filled in by another program before anybody parses it."""
    return _TEMPLATE.search(data) is not None


def syntax(kind: str, path: str, message: str, line: int | None) -> Finding:
    """A syntax error; among the data of tests it is most likely meant to be one."""
    return found("broken-test-data" if is_test(path) else kind, message, path, line)


def without_comments(text: str) -> str:
    """JSON with its comments and trailing commas taken out; strings and line numbers stay."""
    text = _COMMENTS.sub(lambda m: m[1] or "\n" * m[0].count("\n"), text)
    return _TRAILING_COMMA.sub(lambda m: m[1] or m[2], text)


def _level(path: str) -> Severity | None:
    return Severity.INFO if is_test(path) else None


def _load_json(text: str, twice: list[str]) -> None:
    def pairs(items: list[tuple[str, object]]) -> None:
        if len({key for key, _ in items}) < len(items):
            seen: set[str] = set()
            twice.extend(key for key, _ in items if key in seen or seen.add(key))  # type: ignore[func-returns-value]

    json.loads(text, object_pairs_hook=pairs)


def _is_json_lines(text: str) -> bool:
    lines = [line for line in text.splitlines() if line.strip()]
    try:
        for line in lines:
            json.loads(line)
    except (ValueError, RecursionError):
        return False
    return len(lines) > 1


def _json_error(path: str, text: str, exc: Exception) -> Finding:
    if not isinstance(exc, json.JSONDecodeError):
        return syntax("json-syntax", path, "is nested too deeply to be read", None)
    with_comments = False
    try:
        _load_json(without_comments(text), [])
        with_comments = True
    except (ValueError, RecursionError):
        pass
    if with_comments:
        message = "has comments or trailing commas, which strict JSON parsers refuse"
        kind = "broken-test-data" if is_test(path) else "json-syntax"
        return found(kind, message, path, exc.lineno, Severity.INFO)
    return syntax("json-syntax", path, exc.msg, exc.lineno)


def _walk_yaml(data: bytes, twice: list[tuple[str, int]]) -> None:
    """Read the events of a stream; a flat loop, so no depth of nesting can exhaust the stack."""
    stack: list[_Mapping | None] = []  # None for a sequence
    for event in yaml.parse(data, Loader=_LOADER):
        if len(stack) > DEPTH:
            raise yaml.YAMLError("is nested too deeply to be read")
        if isinstance(event, yaml.CollectionEndEvent):
            stack.pop()
            continue
        if isinstance(event, yaml.NodeEvent) and stack and stack[-1] is not None:
            stack[-1].add(event, twice)
        if isinstance(event, yaml.MappingStartEvent):
            stack.append(_Mapping())
        elif isinstance(event, yaml.SequenceStartEvent):
            stack.append(None)


class _Mapping:
    """The keys of one mapping; nodes come as key, value, key, value."""

    def __init__(self) -> None:
        self._keys: set[str] = set()
        self._value_next = False

    def add(self, event: yaml.NodeEvent, twice: list[tuple[str, int]]) -> None:
        """Take the next node of the mapping."""
        if not self._value_next and isinstance(event, yaml.ScalarEvent) and event.value != "<<":
            if event.value in self._keys:
                twice.append((event.value, event.start_mark.line + 1 if event.start_mark else 0))
            self._keys.add(event.value)
        self._value_next = not self._value_next


def _refuse_entities(*_: object) -> None:
    raise _Entities


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_BY_EXTENSION: dict[str, Check] = {
    **dict.fromkeys((".json", ".jsonc", ".webmanifest", ".geojson", ".ipynb", ".code-workspace"), check_json),
    **dict.fromkeys((".yaml", ".yml"), check_yaml),
    ".toml": check_toml,
    **dict.fromkeys((".xml", ".xsd", ".xsl", ".xslt", ".svg", ".plist", ".csproj", ".vcxproj", ".xlf",
                     ".xliff", ".resx", ".wsdl", ".pom"), check_xml),
    ".ini": check_ini,
}  # fmt: skip
_BY_NAME: dict[str, Check] = {
    "composer.lock": check_json,
    "cargo.lock": check_toml,
    "poetry.lock": check_toml,
    "uv.lock": check_toml,
    "pipfile": check_toml,
    "pipfile.lock": check_json,
    ".clang-format": check_yaml,
    ".prettierrc": check_yaml,
}
