"""YAML that people edit: plain data with lines, or one line that says what is wrong and where."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_infra.core import yamlfile
from ai_infra.core.errors import ConfigError
from ai_infra.core.yamlfile import Located, load_yaml, parse_yaml

FILE = Path("a.yaml")


def parse(text: str) -> Located:
    return parse_yaml(text, FILE)


def refused(text: str) -> str:
    """The error that a text gets; one line."""
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- lines --------------------------------------------------------------------------------------------------

TEXT = """\
# a comment
tmux:
  socket: x

  session: y
list:
  - a
  - {b: 1,
     c: 2}
5: five
"""


def test_values_and_their_lines() -> None:
    found = parse(TEXT)
    assert found.value == {
        "tmux": {"socket": "x", "session": "y"}, "list": ["a", {"b": 1, "c": 2}], 5: "five"
    }  # fmt: skip
    keys: list[tuple[Any, ...]] = [
        (), ("tmux",), ("tmux", "socket"), ("tmux", "session"), ("list",), ("list", 0), ("list", 1),
        ("list", 1, "b"), ("list", 1, "c"), (5,),
    ]  # fmt: skip
    assert [found.line(*key) for key in keys] == [2, 2, 3, 5, 6, 7, 8, 8, 9, 10]


def test_a_key_that_is_not_there_has_the_line_of_its_parent() -> None:
    assert parse(TEXT).line("tmux", "width") == 2
    assert parse(TEXT).line("list", 1, "z", "z") == 8
    assert parse("").line("a", "b") == 1


def test_at() -> None:
    found = parse(TEXT)
    assert found.at("list", 1, "c") == 2
    assert found.at() == found.value
    for key in [("nothing",), ("tmux", "socket", "x"), ("list", 7), ("list", "a"), ("tmux", 0), (5, 5, 5)]:
        assert found.at(*key) is None


def test_an_error_names_file_line_and_key() -> None:
    assert str(parse(TEXT).error("must be text", "list", 1, "c")) == "a.yaml:9: list.1.c: must be text"
    assert str(parse(TEXT).error("must be a table")) == "a.yaml:2: must be a table"


@pytest.mark.parametrize(
    ("known", "said"),
    [
        (["sockets", "session"], "a.yaml:3: tmux.socket: unknown key; did you mean 'sockets'?"),
        (["zzz", "session"], "a.yaml:3: tmux.socket: unknown key; known keys: zzz, session"),
    ],
)
def test_an_unknown_key_gets_the_nearest_known_one(known: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        parse(TEXT).check_keys(known, "tmux")
    parse(TEXT).check_keys(["session", "socket", "more"], "tmux")
    parse(TEXT).check_keys([], "nothing")


def test_an_unknown_key_that_is_no_text() -> None:
    with pytest.raises(ConfigError, match="5: unknown key"):
        parse(TEXT).check_keys(["tmux", "list"])


# -- values -------------------------------------------------------------------------------------------------

WORDS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "Zs"]), max_size=10)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=15,
)


@settings(deadline=None)
@given(PLAIN)
def test_json_is_read_as_json(value: Any) -> None:
    assert parse(json.dumps(value, ensure_ascii=False)).value == value


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_has_a_value_or_one_line_that_says_why_not(text: str) -> None:
    try:
        parse(text)
    except ConfigError:
        assert refused(text).startswith("a.yaml:")


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n", "---\n"])
def test_an_empty_file_is_an_empty_table(text: str) -> None:
    assert parse(text).value in ({}, None)


def test_aliases_are_followed() -> None:
    assert parse("a: &x [1, 2]\nb: *x\n").value == {"a": [1, 2], "b": [1, 2]}


# -- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1\nb: 2\n", "a.yaml:2: not valid YAML: "),
        ("a:\n\tb: 1\n", "a.yaml:2: not valid YAML: found character that cannot start any token"),
        ("a: 1\n---\nb: 2\n", "a.yaml:2: not valid YAML: "),
        ("a: *x\n", "a.yaml:1: not valid YAML: found undefined alias"),
        ("a: 'x\n", "not valid YAML: "),
        ('a: "\0"\n', "a.yaml:1: not valid YAML: "),
        ("a: 2024-13-45\n", "a.yaml: not valid YAML: month must be in 1..12"),
        (f"a: {'9' * 5000}\n", "not valid YAML: Exceeds the limit"),
        ("? [a]\n: b\n", "a.yaml:1: a key must be plain text"),
        ("? {a: 1}\n: b\n", "a.yaml:1: a key must be plain text"),
        ("? 2024-01-01\n: b\n", "a.yaml:1: a key must be plain text"),
    ],
)
def test_what_is_not_valid(text: str, said: str) -> None:
    assert said in refused(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "a.yaml:3: 'a' stands twice (first on line 1)"),
        ("x:\n  a: 1\n  a: 1\n", "a.yaml:3: 'a' stands twice (first on line 2)"),
        ("x:\n- {a: 1}\n- {b: 1, b: 2}\n", "a.yaml:3: 'b' stands twice (first on line 3)"),
        ("a: 1\n'a': 2\n", "a.yaml:2: 'a' stands twice (first on line 1)"),
        ("1: 1\n0x1: 2\n", "a.yaml:2: 1 stands twice (first on line 1)"),
        ("~: 1\nnull: 2\n", "a.yaml:2: None stands twice (first on line 1)"),
    ],
)
def test_a_key_twice(text: str, said: str) -> None:
    assert refused(text) == said


def test_the_same_key_in_two_tables_is_no_duplicate() -> None:
    assert parse("a: {k: 1}\nb: {k: 2}\nc:\n- {k: 1}\n- {k: 2}\n").value["c"] == [{"k": 1}, {"k": 2}]


def bomb(levels: int) -> str:
    """Aliases of aliases: 10 to the power of `levels` values in a few hundred bytes."""
    first = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    return first + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, levels)
    )  # fmt: skip


@pytest.mark.parametrize("text", [bomb(9), bomb(9).replace("[", "{k: [").replace("]", "]}")])
def test_a_bomb_of_aliases_is_refused_at_once(text: str) -> None:
    began = time.process_time()
    assert "grows past 200000 values" in refused(text)
    assert time.process_time() - began < 5


@pytest.mark.parametrize("text", ["a: &x [*x]\n", "&x {a: *x}\n", "a: &x {b: {c: *x}}\n"])
def test_an_alias_of_itself(text: str) -> None:
    assert "nested too deeply" in refused(text)


NESTED = ["[" * 5000 + "]" * 5000, "{a: " * 5000 + "}" * 5000, "- " * 5000]


@pytest.mark.parametrize("text", [*NESTED, "".join(" " * i + "a:\n" for i in range(900))])
def test_deep_nesting(text: str) -> None:
    assert "nested too deeply" in refused(text)


@pytest.mark.parametrize("unit", ["[", "- "])
def test_the_deepest_nesting(unit: str) -> None:
    code = (
        "import sys; from pathlib import Path; from ai_infra.core.yamlfile import parse_yaml\n"
        "try: parse_yaml(sys.stdin.read(), Path('a.yaml'))\n"
        "except Exception as exc: print(type(exc).__name__, exc)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=unit * 100_000,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert done.stdout.startswith("ConfigError a.yaml")


IGNORED = ()


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/name:os.system ''\n",
        "a: !!python/object/new:os.system 'x'\n",
        "a: !secret x\n",
        "!!python/name:os.system : x\n",
        "a: !!python/object/apply:os.system [touch x]\n",
        "a: !!python/object:os.system {b: 1}\n",
        "a: !vault [x]\n",
        "a: !!set {x, y}\n",
    ],
)
def test_tags_are_refused(text: str) -> None:
    assert "a.yaml:1: " in refused(text)


def test_bytes_are_refused() -> None:
    refused("a: !!binary aGk=\n")


def test_tags_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for text in ("!!python/object/apply:os.system [touch x]", "!!python/object/new:os.mkdir [y]"):
        refused(f"a: {text}\n")
    assert list(tmp_path.iterdir()) == []


# -- files --------------------------------------------------------------------------------------------------


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("ü: ö\n")
    assert load_yaml(tmp_path / "a.yaml").value == {"ü": "ö"}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"a: caf\xe9\n")
    (tmp_path / "big").write_text("#" * (yamlfile.MAX_BYTES + 1))
    (tmp_path / "right").write_text("#" * yamlfile.MAX_BYTES)
    (tmp_path / "gone").symlink_to("nothing")
    for name, said in {
        "latin": "not UTF-8 text (byte 6)",
        "big": "larger than 1000000 bytes; a settings file never is",
        "nothing": "no such file",
        "gone": "no such file",
        ".": "is not a file",
    }.items():
        with pytest.raises(ConfigError, match=re.escape(f"{tmp_path / name}: {said}")):
            load_yaml(tmp_path / name)
    assert load_yaml(tmp_path / "right").value == {}


def test_a_device_or_pipe_is_not_read() -> None:
    for name in ("/dev/zero", "/dev/stdin"):
        with pytest.raises(ConfigError, match="is not a file"):
            load_yaml(Path(name))
