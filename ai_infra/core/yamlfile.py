"""YAML files that people edit: read once, with the line of every key kept for error messages.

Refused with file and line: what is not YAML, a key twice, a file over MAX_BYTES, and aliases that would
grow without bound. Only plain data comes out (no tags of Python).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ai_infra.core.errors import ConfigError

MAX_BYTES = 1_000_000  #: a settings file larger than this is a mistake
MAX_DEPTH = 100
MAX_NODES = 200_000  #: values after aliases are followed; more is a bomb

_TAG = "tag:yaml.org,2002:"
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Key = str | int | float | None
KeyPath = tuple[Key, ...]


@dataclass(frozen=True, kw_only=True)
class Located:
    """The data of one file and where in it each key stands."""

    path: Path
    value: Any
    lines: Mapping[KeyPath, int]

    def line(self, *key: Key) -> int:
        """The 1-based line of a key path, or of its nearest parent that has one."""
        while key and key not in self.lines:
            key = key[:-1]
        return self.lines.get(key, 1)

    def error(self, message: str, *key: Key) -> ConfigError:
        """A ConfigError that names the file, the line, and the key."""
        name = ".".join(str(part) for part in key)
        return ConfigError(f"{self.path}:{self.line(*key)}: {name + ': ' if name else ''}{message}")

    def check_keys(self, known: Iterable[str], *key: Key) -> None:
        """Raise for the first key below `key` that is not `known`, with the nearest known one."""
        table = self.at(*key)
        names = list(known)
        for found in table or {}:
            if found not in names:
                near = difflib.get_close_matches(str(found), names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(names)}"
                raise self.error(f"unknown key; {hint}", *key, found)

    def at(self, *key: Key) -> Any:
        """The value at a key path; None where it does not exist."""
        value = self.value
        for part in key:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value


def load_yaml(path: Path) -> Located:
    """Read one YAML file; an empty one is an empty mapping. Raises ConfigError."""
    return parse_yaml(_read(path), path)


def parse_yaml(text: str, path: Path) -> Located:
    """Parse `text` as if it stood in `path`."""
    try:
        _check_depth(text, path)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            lines: dict[KeyPath, int] = {}
            value = _Builder(path, loader, lines).build(node, ()) if node is not None else {}
        finally:
            loader.dispose()
    except yaml.YAMLError as exc:
        raise ConfigError(f"{path}:{_mark_line(exc)}: not valid YAML: {_problem(exc)}") from exc
    except RecursionError as exc:
        raise ConfigError(f"{path}: not usable: nested too deeply") from exc
    except ValueError as exc:
        raise ConfigError(f"{path}: not valid YAML: {exc}") from exc
    return Located(path=path, value=value, lines=lines)


def _check_depth(text: str, path: Path) -> None:
    """libyaml composes by recursion in C, which ends the process; its events come one by one."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise ConfigError(f"{path}:{line}: not usable: nested too deeply")


class _Builder:
    """Turns YAML nodes into plain data, counting them and noting lines."""

    def __init__(self, path: Path, loader: Any, lines: dict[KeyPath, int]) -> None:
        self._path, self._loader, self._lines = path, loader, lines
        self._left = MAX_NODES

    def build(self, node: Any, key: KeyPath) -> Any:
        self._left -= 1
        if self._left < 0:
            raise ConfigError(f"{self._path}: grows past {MAX_NODES} values (aliases of aliases?)")
        self._lines.setdefault(key, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, key)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self.build(item, (*key, i)) for i, item in enumerate(node.value)]
        if not isinstance(node, yaml.ScalarNode) or node.tag == f"{_TAG}binary":
            where = f"{self._path}:{node.start_mark.line + 1}"
            raise ConfigError(
                f"{where}: the tag {node.tag.removeprefix(_TAG)!r} means nothing here; leave it out"
            )
        return self._loader.construct_object(node)

    def _mapping(self, node: Any, key: KeyPath) -> dict[Any, Any]:
        out: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            name = self._loader.construct_object(key_node)
            line = key_node.start_mark.line + 1
            if not isinstance(name, str | int | bool | float) and name is not None:
                raise ConfigError(f"{self._path}:{line}: a key must be plain text")
            if name in out:
                first = self._lines[(*key, name)]
                raise ConfigError(f"{self._path}:{line}: {name!r} stands twice (first on line {first})")
            self._lines[(*key, name)] = line
            out[name] = self.build(value_node, (*key, name))
        return out


def _read(path: Path) -> str:
    try:
        if not path.is_file():
            raise ConfigError(f"{path}: {'is not a file' if path.exists() else 'no such file'}")
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_BYTES} bytes; a settings file never is")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: not UTF-8 text (byte {exc.start})") from exc
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc


def _mark_line(exc: yaml.YAMLError) -> int:
    mark = getattr(exc, "problem_mark", None)
    return mark.line + 1 if mark is not None else 1


def _problem(exc: yaml.YAMLError) -> str:
    return str(getattr(exc, "problem", None) or exc).splitlines()[0]
