"""VERIFY: each check says what was found; whatever a task left behind, a check ends in a verdict."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_infra.agents import patterns
from ai_infra.agents.checks import JSON_MAX_BYTES, SEARCHED_BYTES, Checked, Ran, check_all
from ai_infra.agents.commands import Command
from ai_infra.tasks.jsonpath import value_at
from ai_infra.tasks.task import Expect

DOCUMENT: dict[str, Any] = {
    "a": {"b": [{"c": 1}, [2, 3]], "with space": 4, "ü": 5, "": 6},
    "list": [10, 11],
    "null": None,
    "text": "word",
    "0": "a key of digits",
}


class Output:
    """What a task's commands wrote, as the agent keeps it."""

    def __init__(self) -> None:
        self.written = b""

    @property
    def total_bytes(self) -> int:
        return len(self.written)

    def end(self) -> bytes:
        return self.written[-SEARCHED_BYTES:]


class Place:
    """A task's folder and its output."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.output = folder, Output()
        self.ran: list[Command] = []

    def check(
        self, *expects: Expect, codes: Sequence[int] = (0,), answer: int = 0, stop_at: int = 99
    ) -> list[Checked]:
        """Check everything; the attempt is being stopped when so many commands have run."""

        async def main() -> list[Checked]:
            ended = asyncio.Event()
            if stop_at == 0:
                ended.set()

            async def run(command: Command) -> int:
                self.ran.append(command)
                if len(self.ran) == stop_at:
                    ended.set()
                return answer

            ran = Ran(exit_codes=codes, output=self.output, cwd=self.folder, run=run, ended=ended)
            return await asyncio.wait_for(check_all(expects, ran), 30)

        return asyncio.run(main())

    def only(self, expect: Expect) -> Checked:
        """The verdict of one check, beside that of the exit code."""
        code, found = self.check(expect)
        assert code.ok
        return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# -- value_at -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("", DOCUMENT),
        ("a.b[0].c", 1),
        ("a.b[1][0]", 2),
        ("list[1]", 11),
        ("null", None),
        ("a.with space", 4),
        ("a.ü", 5),
        ("0", "a key of digits"),
    ],
)
def test_value_at(where: str, value: object) -> None:
    assert value_at(DOCUMENT, where) == value


@pytest.mark.parametrize(
    "where",
    [
        "b",
        "a.c",
        "list[2]",
        "list[-1]",
        "list.0",
        "null.x",
        "text.x",
        "a[0]",
        "a.b.c",
        "list[0][0]",
        "a.b[0].c.d",
    ],
)
def test_nothing_at(where: str) -> None:
    with pytest.raises(LookupError):
        value_at(DOCUMENT, where)


@pytest.mark.parametrize("where", [".", "a..b", "a.", "a[", "a[x]", "a[]", "[", "]", "a]"])
def test_no_path(where: str) -> None:
    with pytest.raises(LookupError, match=r"is no path like a\.b\[0\]\.c"):
        value_at(DOCUMENT, where)


def test_a_letter_of_a_text_is_no_value() -> None:
    with pytest.raises(LookupError):
        value_at(DOCUMENT, "text[0]")


DOCUMENTS = st.recursive(
    st.none() | st.integers() | st.text("a1", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab01", max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(document=DOCUMENTS, where=st.text("ab.[]01", max_size=12))
def test_any_path_has_a_value_or_a_lookup_error(document: object, where: str) -> None:
    with suppress(LookupError):
        value_at(document, where)


# -- check_all ----------------------------------------------------------------------------------------------


def test_without_a_check_of_it_the_last_command_must_have_ended_with_0(place: Place) -> None:
    assert place.check() == [Checked(what="exit code 0", ok=True, evidence="exit 0")]
    assert place.check(codes=[0, 3]) == [Checked(what="exit code 0", ok=False, evidence="exit 3")]
    assert place.check(codes=[]) == [Checked(what="exit code 0", ok=False, evidence="exit None")]
    assert not place.check(codes=[0, -9])[0].ok


def test_another_exit_code_may_be_wanted(place: Place) -> None:
    assert place.check(Expect(exit_code=3), codes=[0, 3]) == [
        Checked(what="exit code 3", ok=True, evidence="exit 3")
    ]
    assert not place.check(Expect(exit_code=3), codes=[0])[0].ok
    assert place.check(Expect(exit_code=0), codes=[0])[0].ok


def test_checks_keep_their_order_and_one_that_fails_stops_none(place: Place) -> None:
    found = place.check(Expect(file="gone"), Expect(command=("true",)), Expect(output_matches="x"))
    assert [check.ok for check in found] == [True, False, True, False]
    assert [check.what.split()[0] for check in found] == ["exit", "file", "`true`", "output"]


def test_a_command_decides_by_its_exit_code(place: Place) -> None:
    expect = Expect(command=("test", "-f", "a file"))
    assert place.check(expect)[1] == Checked(what="`test -f 'a file'` succeeds", ok=True, evidence="exit 0")
    assert place.check(Expect(command="make check | tail -1"), answer=2)[1] == Checked(
        what="`make check | tail -1` succeeds", ok=False, evidence="exit 2"
    )
    assert place.ran == [("test", "-f", "a file"), "make check | tail -1"]


@pytest.mark.parametrize(
    ("pattern", "ok"),
    [
        ("passed", True),
        (r"^\d+ passed$", True),
        ("^passed", False),
        ("3.*1", False),
        (r"(?s)3.*1", True),
        ("ü", True),
    ],
)
def test_the_output_is_searched_line_by_line(place: Place, pattern: str, ok: bool) -> None:
    place.output.written = "3 passed\nü\n1 failed\n".encode()
    found = place.only(Expect(output_matches=pattern))
    assert found.ok is ok
    assert found.evidence.startswith("found " if ok else "not found in 21 bytes")


def test_only_the_end_of_a_long_output_is_searched(place: Place) -> None:
    place.output.written = b"first" + b"." * SEARCHED_BYTES + b"last"
    assert place.only(Expect(output_matches="last")).ok
    assert not place.only(Expect(output_matches="first")).ok


def test_output_that_is_no_text(place: Place) -> None:
    place.output.written = b"\xff\xfe\0 done\n"
    assert place.only(Expect(output_matches="done$")).ok


def test_a_file_or_a_folder_must_be_there(place: Place) -> None:
    (place.folder / "sub").mkdir()
    (place.folder / "sub" / "out.csv").write_text("12345")
    assert place.only(Expect(file="sub/out.csv")).evidence == "5 bytes"
    assert place.only(Expect(file="sub")).ok
    assert place.only(Expect(file=str(place.folder / "sub"))).ok
    assert place.only(Expect(file="sub/out")) == Checked(
        what=f"file {place.folder}/sub/out", ok=False, evidence="not there"
    )


def test_a_link_counts_by_what_it_points_to(place: Place) -> None:
    (place.folder / "gone").symlink_to("nothing")
    (place.folder / "loop").symlink_to("loop")
    assert not place.only(Expect(file="gone")).ok
    assert not place.only(Expect(file="loop")).ok


@pytest.mark.parametrize(
    ("where", "wanted", "ok", "evidence"),
    [
        ("a.b[0].c", 1, True, "it is 1"),
        ("a.b[0].c", 1.0, True, "it is 1"),
        ("a.b[0].c", 2, False, "it is 1"),
        ("a.b[0].c", "1", False, "it is 1"),
        ("list", [10, 11], True, "it is [10, 11]"),
        ("null", None, True, "it is null"),
        ("nothing", None, False, "LookupError: nothing at 'nothing'"),
        ("a..b", 1, False, "LookupError: 'a..b' is no path like a.b[0].c"),
    ],
)
def test_a_value_in_a_json_file(place: Place, where: str, wanted: object, ok: bool, evidence: str) -> None:
    (place.folder / "r.json").write_text(json.dumps(DOCUMENT))
    found = place.only(Expect(file="r.json", json_path=where, equals=wanted))
    assert (found.ok, found.evidence) == (ok, evidence)


@pytest.mark.parametrize(
    ("text", "evidence"),
    [(b"{", "JSONDecodeError"), (b"", "JSONDecodeError"), (b"\xff", "UnicodeDecodeError")],
)
def test_what_is_no_json(place: Place, text: bytes, evidence: str) -> None:
    (place.folder / "r.json").write_bytes(text)
    found = place.only(Expect(file="r.json", json_path="a", equals=1))
    assert not found.ok
    assert found.evidence.startswith(evidence)


def test_a_json_file_that_is_gone_a_folder_or_too_large(place: Place) -> None:
    expect = Expect(file="r.json", json_path="a", equals=1)
    assert place.only(expect).evidence.startswith("FileNotFoundError")
    with open(place.folder / "r.json", "wb") as file:
        file.truncate(JSON_MAX_BYTES + 1)
    assert place.only(expect).evidence == f"larger than {JSON_MAX_BYTES} bytes"
    os.unlink(place.folder / "r.json")
    (place.folder / "r.json").mkdir()
    assert place.only(expect).evidence.startswith("IsADirectoryError")


def test_true_is_not_one(place: Place) -> None:
    (place.folder / "r.json").write_text('{"a": true, "b": 0}')
    assert not place.only(Expect(file="r.json", json_path="a", equals=1)).ok
    assert not place.only(Expect(file="r.json", json_path="b", equals=False)).ok


# -- what a task can do to a check: none of it may end the agent's process ----------------------------------


def test_a_name_that_no_file_can_have(place: Place) -> None:
    assert not place.only(Expect(file="x" * 300)).ok


@pytest.mark.parametrize("make", ["mkfifo", "ln -s /dev/zero", "mkdir"])
def test_what_is_no_plain_file_is_not_read(place: Place, make: str) -> None:
    subprocess.run([*make.split(), str(place.folder / "r.json")], check=True)
    found = place.only(Expect(file="r.json", json_path="a", equals=1))
    assert not found.ok
    assert "not a plain file" in found.evidence or "IsADirectory" in found.evidence


def test_a_pattern_that_would_never_end_is_given_up(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "SEARCH_S", 0.2)
    place.output.written = b"a" * 50 + b"!"
    found = place.only(Expect(output_matches="(a+)+$"))
    assert (found.ok, found.evidence) == (False, "pattern took too long (0.2 s)")


def test_nothing_more_is_checked_once_the_attempt_is_stopped(place: Place) -> None:
    commands = [Expect(command=(name,)) for name in ("one", "two", "three")]
    assert [check.what for check in place.check(*commands, stop_at=2)] == [
        "exit code 0", "`one` succeeds", "`two` succeeds",
    ]  # fmt: skip
    assert place.check(*commands, stop_at=0) == []


def test_json_nested_too_deeply(place: Place) -> None:
    (place.folder / "r.json").write_text("[" * 100_000)
    assert not place.only(Expect(file="r.json", json_path="a", equals=1)).ok
