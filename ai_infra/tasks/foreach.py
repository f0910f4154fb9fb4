"""Fan-out: the items of `for_each:`. A task with it becomes name-1 … name-n, one an item."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ai_infra.tasks.names import as_text
from ai_infra.tasks.template import TemplateError, fill, only_hole

MAX_ITEMS = 1000


def items_of(each: Any, values: Mapping[str, str]) -> list[Any]:
    """The items of a list, whose texts may hold templates, or of a text that is one template.

    That text must give a JSON list, or items with commas between them. Raises TemplateError.
    """
    if isinstance(each, str):
        found = _listed(each, values)
    elif isinstance(each, list):
        found = [_filled(item, values) for item in each]
    else:
        raise TemplateError(f"must be a list, or one template that gives one, not {as_text(each)[:60]}")
    if len(found) > MAX_ITEMS:
        raise TemplateError(f"holds {len(found)} items, more than {MAX_ITEMS}")
    return found


def _listed(text: str, values: Mapping[str, str]) -> list[Any]:
    name = only_hole(text)
    if name is None:
        raise TemplateError(
            f'must be a list, or one template that gives one, as in "{{{{ params.x }}}}", not {text!r}'
        )
    if name.startswith("tasks."):
        raise TemplateError(
            f"{name} is known only when a task is claimed, but the tasks are made when the file is read; "
            f"let a task run `ai-infra workflow run FILE --no-wait --param items={{{{ {name} }}}}`, "
            "and put for_each into FILE"
        )
    given = fill(text, values).strip()
    if not given.startswith("["):
        return _between_commas(name, given)
    try:
        found = json.loads(given, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise TemplateError(f"{name} begins like a JSON list, but is none: {exc}") from exc
    return list(found)


def _between_commas(name: str, text: str) -> list[Any]:
    found = [item.strip() for item in text.split(",")] if text else []
    if "" in found:
        raise TemplateError(f"{name} holds an empty item: {text[:80]!r}")
    return list(found)


def _filled(item: Any, values: Mapping[str, str]) -> Any:
    """An item of a literal list: plain JSON, its texts filled."""
    match item:
        case str():
            return fill(item, values)
        case dict():
            if not all(isinstance(key, str) for key in item):
                raise TemplateError("a key of an item must be a text; put it in quotes")
            return {key: _filled(value, values) for key, value in item.items()}
        case list():
            return [_filled(value, values) for value in item]
        case None | bool() | int():
            return item
        case float() if item - item == 0:  # not infinite, and a number
            return item
    raise TemplateError(f"an item holds {item!r}, which JSON does not know; put it in quotes")


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")
