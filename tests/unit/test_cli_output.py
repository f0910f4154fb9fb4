"""What commands print: JSON that a terminal may be given, states by their names, who typed a command."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from dashboard_data import task
from hypothesis import given
from hypothesis import strategies as st

from ai_infra.app.command import login
from ai_infra.cli import dead_letters
from ai_infra.cli.options import STATES
from ai_infra.cli.output import by_whom, json_text
from ai_infra.tasks.task import State


@given(st.recursive(st.none() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_says_the_same_and_holds_nothing_that_moves_a_cursor(value: object) -> None:
    text = json_text(value)
    assert json.loads(text) == value
    assert not any(char < " " or "\x7f" <= char <= "\x9f" or "\u202a" <= char <= "\u202e" for char in text)


def test_json_keeps_what_people_write() -> None:
    assert json_text({"größe": "日本 😀", "esc": "\x1b[2J\x9b2J"}) == (
        '{"größe": "日本 😀", "esc": "\\u001b[2J\\u009b2J"}'
    )


def test_the_states_that_may_be_typed_are_those_of_tasks() -> None:
    assert list(State) == STATES


def test_a_reason_names_who_the_kernel_says_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "ada")
    assert by_whom("backup").startswith(f"backup ({login()}, ")
    assert login() != "ada"


def test_a_task_is_not_taken_for_the_person_whose_user_it_runs_as(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AI_INFRA_AGENT", "code")
    monkeypatch.setenv("AI_INFRA_TASK_ID", "t-1")
    assert by_whom("").startswith("by task t-1 of code, ")


def test_dead_letters_that_were_not_looked_at_are_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Many:
        async def list_tasks(self, *, limit: int, **_: object) -> list[Any]:
            return [task("a", State.FAILED)] * min(limit, 3)

    def look(most: int) -> str:
        monkeypatch.setattr(dead_letters, "MOST", most)
        asyncio.run(dead_letters._chosen(None, Many(), None, None))  # type: ignore[arg-type]  # what it asks
        return capsys.readouterr().err

    assert look(4) == ""
    assert look(3) == "ai-infra: only the latest 3 dead letters were looked at; there may be more\n"
