"""Reading a workflow file: the kinds of values in it. A mistake is an error that names file, line and key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ai_infra.core.yamlfile import Located
from ai_infra.tasks.task import Command
from ai_infra.tasks.template import TemplateError, fill, fill_bash

Key = str | int
Fill = Callable[[str, Mapping[str, str]], str]


class Reader:
    """Walks one file; every method takes the key path it reads."""

    def __init__(self, file: Located, names: Mapping[str, str]) -> None:
        self.file = file
        self.names = names  #: what templates may name
        self.keeps = False  #: texts stay as they are, templates and all; they are checked nevertheless

    # ------------------------------------------------------------ texts with templates

    def fill(self, how: Fill, text: str, *key: Key) -> str:
        """`text` with its templates replaced."""
        try:
            return how(text, self.names)
        except TemplateError as exc:
            raise self.file.error(str(exc), *key) from exc

    def filled(self, how: Fill, text: str, *key: Key) -> str:
        """The same, or `text` itself where it is filled when the task is claimed."""
        full = self.fill(how, text, *key)
        return text if self.keeps else full

    def command(self, *key: Key) -> Command:
        """A list of words, or a text for bash."""
        command = self.file.at(*key)
        if isinstance(command, str):
            return self.filled(fill_bash, self._not_empty(command, *key), *key)
        if not isinstance(command, list) or not command:
            raise self.file.error("a command is a list of words, or a text for bash", *key)
        words = [self.scalar(*key, i) for i in range(len(command))]
        self._not_empty(words[0], *key)
        return tuple(self.filled(fill, word, *key, i) for i, word in enumerate(words))

    def _not_empty(self, text: str, *key: Key) -> str:
        if not text.strip():
            raise self.file.error("the command is empty", *key)
        return text

    def path(self, *key: Key) -> str:
        """A path with its templates filled."""
        text = self.scalar(*key)
        path = self.fill(fill, text, *key)
        if not path or "\0" in path:
            raise self.file.error("is not a path", *key)
        return text if self.keeps else path

    # ------------------------------------------------------------ kinds of values

    def scalar(self, *key: Key) -> str:
        """A text or number, as text."""
        value = self.file.at(*key)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self.file.error(f"must be a text, not {value!r}; put it in quotes", *key)
        return str(value)

    def text(self, *key: Key) -> str:
        """A text, '' where there is none."""
        value = self.file.at(*key)
        if value is not None and not isinstance(value, str):
            raise self.file.error(f"must be a text, not {value!r}", *key)
        return value or ""

    def number(self, kind: type, low: float, high: float, *key: Key) -> Any:
        """A number of `kind` (int or float), None where there is none."""
        value = self.file.at(*key)
        if value is None:
            return None
        fits = isinstance(value, int) or (kind is float and isinstance(value, float))
        if isinstance(value, bool) or not fits or not low <= value <= high:
            what = "a whole number" if kind is int else "a number"
            raise self.file.error(f"must be {what} from {low} to {high}, not {value!r}", *key)
        return kind(value)

    def flag(self, *key: Key) -> bool:
        """True or false, false where there is none."""
        value = self.file.at(*key)
        if value is not None and not isinstance(value, bool):
            raise self.file.error("must be true or false", *key)
        return value is True

    def mapping(self, *key: Key) -> dict[str, Any]:
        """A mapping, {} where there is none."""
        value = self.file.at(*key)
        if value is not None and not isinstance(value, dict):
            raise self.file.error(f"must be a mapping (key: value), not {_short(value)}", *key)
        return value or {}

    def list(self, *key: Key) -> list[Any]:
        """A list, [] where there is none."""
        value = self.file.at(*key)
        if value is not None and not isinstance(value, list):
            raise self.file.error(f"must be a list, not {_short(value)}", *key)
        return value or []

    def length(self, *key: Key) -> int:
        """Of a list."""
        return len(self.list(*key))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
