"""Ids: of their form, in the order of their making, never twice."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_infra.core.ids import AgentName, is_id, is_name, new_id, new_worker_id

ALPHABET = "[0-9a-hjkmnp-tv-z]"


def test_the_form_of_an_id() -> None:
    assert re.fullmatch(rf"t-{ALPHABET}{{14,}}", new_id("t"))
    assert re.fullmatch(rf"code\.{ALPHABET}{{10}}", new_worker_id(AgentName("code")))
    assert is_id(new_id("t"))
    assert is_id(new_worker_id(AgentName("code")))


@settings(deadline=None)
@given(times=st.lists(st.integers(0, 2**45 - 1), min_size=2, max_size=20, unique=True))
def test_ids_sort_by_their_time(times: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        made = []
        for ms in sorted(times):
            patch.setattr(time, "time_ns", lambda ms=ms: ms * 1_000_000 + 999_999)
            made.append(new_id("t"))
    assert made == sorted(made)


def test_an_id_made_later_sorts_later() -> None:
    first = new_id("t")
    begun_ms = time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 == begun_ms:
        pass  # a millisecond at most
    assert first < new_id("t")


def test_ids_made_in_one_moment_differ() -> None:
    assert len({new_id("t") for _ in range(50)}) == 50
    assert len({new_worker_id(AgentName("code")) for _ in range(10_000)}) == 10_000


def test_many_ids_made_in_one_millisecond_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_000_000_000)
    assert len({new_id("t") for _ in range(40_000)}) == 40_000


@pytest.mark.parametrize("text", ["a", "code", "git-worktrees", "a_1", "x" * 40])
def test_names(text: str) -> None:
    assert is_name(text)


@pytest.mark.parametrize(
    "text",
    ["", "A", "1a", "-a", "_a", "a b", "a.b", "a:b", "a/b", "a\n", "\na", "ä", "a\0", "..", "a;b", "x" * 41],
)
def test_what_is_no_name(text: str) -> None:
    assert not is_name(text)


@pytest.mark.parametrize(
    "text", ["t-1kxs2fhj8abcde", "w-1.lint", "code.6fk2m9q1x0", "0", "A", "a:b", "x" * 80]
)
def test_forms_of_ids(text: str) -> None:
    assert is_id(text)


@pytest.mark.parametrize(
    "text", ["", ".", "..", "-a", "a/b", "a b", "a*", "a\n", "a\0b", "ä", "$(x)", "a'b", "x" * 81]
)
def test_what_is_no_id(text: str) -> None:
    assert not is_id(text)
