"""Data formats: what cannot be parsed is found, what is merely unusual is not, and bombs do nothing."""

from __future__ import annotations

import time

import pytest

from ai_infra.checkup.findings import Finding
from ai_infra.checkup.parsers import checker_for, without_comments


def check(path: str, text: str | bytes) -> list[Finding]:
    checker = checker_for(path)
    assert checker is not None
    return list(checker(path, text if isinstance(text, bytes) else text.encode()))


@pytest.mark.parametrize(
    ("path", "text", "kind", "line"),
    [
        ("a.json", '{"a": 1,\n "b" 2}', "json-syntax", 2),
        ("a.json", "", "json-syntax", None),
        ("a.json", "[" * 200_000, "json-syntax", None),
        ("a.json", '{"a": 1} x', "json-syntax", 1),
        ("package.json", '{"a": 1, "a": 2}', "duplicate-key", None),
        ("a.yaml", "a: 1\nb: [1, 2\nc: 3\n", "yaml-syntax", 3),
        ("a.yml", "a: 1\n\tb: 2\n", "yaml-syntax", 2),
        ("a.yaml", b"a: \xff\n", "yaml-syntax", None),
        ("a.yaml", "a: 1\nb: 2\na: 3\n", "duplicate-key", 3),
        ("a.yaml", "x:\n  - {k: 1, k: 2}\n", "duplicate-key", 2),
        ("a.toml", "[a]\nb = \n", "toml-syntax", 2),
        ("a.toml", b"a = '\xff'\n", "toml-syntax", None),
        ("a.xml", "<a>\n<b></a>", "xml-syntax", 2),
        ("a.svg", "<svg/><svg/>", "xml-syntax", 1),
        ("a.xml", "<x:a/>", "xml-syntax", 1),
        ("setup.cfg", "name = x\n[metadata]\n", "ini-syntax", 1),
        ("tox.ini", "[a]\nb = 1\nb = 2\n", "duplicate-key", 3),
        ("tox.ini", "[a]\n[b]\n[a]\n", "duplicate-key", 3),
    ],
)
def test_a_broken_file_is_found(path: str, text: str | bytes, kind: str, line: int | None) -> None:
    (finding,) = check(path, text)
    assert (finding.kind, finding.line) == (kind, line)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("a.json", '{"a": [1, 2.5, null, "x"]}'),
        ("tsconfig.json", '{\n  // why\n  "a": 1, /* and */\n}'),
        (".vscode/settings.json", '{"a": "http://x", // y\n}'),
        ("rows.json", '{"a": 1}\n{"a": 2}\n'),
        ("chart/values.json", '{"a": {{ .Values.a }} }'),
        ("a.yaml", "a: !Custom {b: !!python/object:x 1}\n---\nc: 2\n...\n"),
        ("a.yaml", "base: &b {x: 1}\none:\n  <<: *b\n  x: 2\ntwo:\n  <<: *b\n"),
        ("a.yaml", "one: {a: 1}\ntwo: {a: 1}\n? [a, b]\n: 1\n? [a, c]\n: 2\n"),
        ("a.yaml", ""),
        ("templates/x.yaml", "a: {{ if x }}\n  b: {{ y }\n"),
        ("a.toml", 'a = 1979-05-27T07:32:00Z\n[b."c.d"]\ne = {f = 1}\n'),
        ("a.xml", '<?xml version="1.0" encoding="latin-1"?><a>\xe4</a>'.encode("latin-1")),
        ("a.xml", '<?xml version="1.0" encoding="x-unknown"?><a/>'),
        ("tox.ini", "[a]\nb\nc = %(d)s\n"),
    ],
)
def test_a_good_file_is_left_alone(path: str, text: str | bytes) -> None:
    assert check(path, text) == []


def test_an_entity_bomb_and_an_outside_entity_do_nothing() -> None:
    bomb = '<!DOCTYPE a [<!ENTITY x "xxxxxxxxxx">' + "".join(
        f'<!ENTITY x{n} "{f"&x{n - 1 if n else str()};" * 10}">' for n in range(1, 12)
    )
    assert check("a.xml", bomb + "]><a>&x11;</a>") == []
    outside = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>'
    assert check("a.xml", outside) == []


def test_an_alias_bomb_does_nothing() -> None:
    rows = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40)]
    bomb = "\n".join(["a0: &a0 [x, x]", *rows])
    assert check("a.yaml", bomb) == []


def test_deep_nesting_does_not_exhaust_the_stack() -> None:
    started = time.monotonic()
    for text in ("[" * 100_000, "- " * 50_000 + "x"):
        assert all(finding.kind == "yaml-syntax" for finding in check("a.yaml", text))
    assert time.monotonic() - started < 3  # the parser alone takes ten, and time as the square of the depth


def test_comments_in_strict_json_are_a_remark_only() -> None:
    (finding,) = check("data.json", '{\n// why\n"a": 1}')
    assert (finding.severity, finding.line) == ("info", 2)
    (mark,) = check("data.json", b"\xef\xbb\xbf{}")
    assert (mark.severity, mark.message) == (
        "info",
        "starts with a byte order mark, which JSON parsers refuse",
    )


def test_broken_data_of_tests_is_a_remark() -> None:
    (finding,) = check("tests/fixtures/bad.json", "{")
    assert (finding.kind, finding.severity) == ("broken-test-data", "info")


def test_comments_are_taken_out_of_json_but_not_out_of_strings() -> None:
    assert without_comments('{"a": "x // y", /* z\n */ "b": [1, 2,],}') == '{"a": "x // y", \n "b": [1, 2]}'


def test_files_of_other_formats_have_no_parser() -> None:
    assert checker_for("a.txt") is None
    assert checker_for("php.conf") is None
