"""Texts, links and trees: what any file can have wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ai_infra.checkup.findings import Finding
from ai_infra.checkup.git import Repo
from ai_infra.checkup.languages import language_of
from ai_infra.checkup.links import all_paths, check_links, relative_links
from ai_infra.checkup.scripts import Script, is_bash, is_javascript, parse_bash_error
from ai_infra.checkup.texts import check_text
from ai_infra.checkup.tracked import EXECUTABLE, FILE, Content, Entry, Tracked
from ai_infra.checkup.tree import check_case, check_entry, check_link, check_tree


def text(path: str, data: bytes) -> list[Finding]:
    return list(check_text(path, data, language_of(path, data)))


CONFLICT = b"a\n<<<<<<< HEAD\nb\n=======\nc\n>>>>>>> other\nd\n"


@pytest.mark.parametrize(
    ("path", "data", "kind", "line"),
    [
        ("a.txt", CONFLICT, "merge-conflict", 2),
        ("a.py", b"x = 1\0\0", "nul-bytes", 1),
        ("a.md", "# caf\xe9\n".encode("latin-1"), "not-utf-8", 1),
        ("a.c", b"one\r\ntwo\nthree\r\n", "mixed-line-ends", None),
        ("a.js", b"x\n" + b"y" * 1500 + b"\n", "long-lines", 2),
        ("a.py", b"if a:\n    b\nif c:\n\td\n", "mixed-indent", 4),
        ("a.py", b"\xff\xfea\0b\0", "not-utf-8", 1),
    ],
)
def test_a_fault_in_a_text_is_found(path: str, data: bytes, kind: str, line: int | None) -> None:
    (finding,) = text(path, data)
    assert (finding.kind, finding.line) == (kind, line)


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("a.rst", b"Title\n=======\n\n>>> x\n"),
        ("a.md", b"    <<<<<<< HEAD\n    =======\n    >>>>>>> x\n"),
        ("a.txt", b"=======\n>>>>>>> b\n<<<<<<< a\n"),
        ("a.c", b"one\r\ntwo\r\n"),
        ("a.py", b"x = '''\n\ta\n    b\n'''\n"),
        ("a.html", b"<meta charset=latin-1>\xe4"),
        ("a.png", b"\x89PNG\0\0"),
        ("video.ts", b"\x47\0\xff\0\xfe\0\0\0\0"),
        ("data.csv", b"a;" * 2000),
        ("a.min.js", b"x" * 5000),
        ("vendor/a.c", b"one\r\ntwo\n"),
        ("empty.py", b""),
    ],
)
def test_a_usual_text_is_left_alone(path: str, data: bytes) -> None:
    assert text(path, data) == []


def test_zeros_at_the_end_are_said_to_be_at_the_end() -> None:
    (finding,) = text("a.yaml".replace("yaml", "sh"), b"echo\n\0\0\0\0")
    assert "at its end" in finding.message
    (conflict,) = text("tests/test_merge.py", CONFLICT)
    assert conflict.severity == "info"


PATHS = all_paths(["README.md", "docs/use.md", "docs/img/a b.png", "src/main.c", "guide/index.md"])


@pytest.mark.parametrize(
    "link",
    [
        "[a](docs/use.md)",
        "[a](docs/use.md#part)",
        "[a](./docs)",
        "[a](docs/)",
        "![a](docs/img/a%20b.png)",
        "[a](<docs/img/a b.png>)",
        '[a](docs/use.md "title")',
        "[a](https://example.org/x.md)",
        "[a](mailto:x@y)",
        "[a](#here)",
        "[a](/absolute.md)",
        "[a](../outside/x.md)",
        "`[a](gone.md)`",
        "```\n[a](gone.md)\n```",
        "<!-- [a](gone.md) -->",
        "[a]({{ url }}/x.md)",
        "[a](guide)",
        "[a](docs/use.html)",
        "[a][b]\n\n[b]: docs/use.md",
        "[^1]: gone.md",
    ],
)
def test_a_link_that_leads_somewhere_or_nowhere_sure(link: str) -> None:
    assert list(check_links("README.md", link, PATHS)) == []


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("[a](gone.md)", "gone.md"),
        ("see\n\n[a](docs/gone.md#x)", "docs/gone.md#x"),
        ("![a](docs/img/b.png)", "docs/img/b.png"),
        ("[a]: gone.md", "gone.md"),
        ("[a](LICENSE)", "LICENSE"),
    ],
)
def test_a_broken_link_is_found(link: str, target: str) -> None:
    (finding,) = check_links("README.md", link, PATHS)
    assert repr(target) in finding.message
    assert finding.severity == "warn"
    assert finding.line == link.count("\n") + 1


def test_below_the_front_page_only_file_names_are_sure_and_they_are_remarks() -> None:
    findings = list(check_links("docs/use.md", "[a](page/)\n[b](gone.md)\n[c](../src/main.c)\n", PATHS))
    assert [(f.line, f.severity) for f in findings] == [(2, "info")]


def test_links_after_a_closed_fence_count_again() -> None:
    assert list(relative_links("```py\n[a](b.md)\n```\n[c](d.md)\n")) == [("d.md", 4)]


LINKS = {
    "good": "src/main.c",
    "folder": "docs",
    "up/good": "../README.md",
    "gone": "src/gone.c",
    "chain": "good",
    "broken chain": "gone",
    "self": "self",
    "absolute": "/etc/hosts",
    "outside": "../../x",
    "through": "folder/use.md",
    "tests/gone": "nothing",
}


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("good", None),
        ("folder", None),
        ("up/good", None),
        ("chain", None),
        ("through", None),
        ("gone", "broken-symlink"),
        ("broken chain", "broken-symlink"),
        ("self", "broken-symlink"),
        ("absolute", "outside-symlink"),
        ("outside", "outside-symlink"),
    ],
)
def test_symbolic_links(path: str, kind: str | None) -> None:
    found = [finding.kind for finding in check_link(path, LINKS, PATHS | set(LINKS) - {"self"})]
    assert found == ([kind] if kind else [])


def test_names_that_differ_in_case_only() -> None:
    (finding,) = check_case(["a/Readme", "b", "a/README", "a/readme"])
    assert "a/README, a/readme" in finding.message
    assert list(check_case(["a", "b"])) == []


def content(path: str, data: bytes | None, mode: int = FILE, size: int | None = -1) -> Content:
    size = len(data or b"") if size == -1 else size
    return Content(entry=Entry(path=path, mode=mode, blob="0"), size_bytes=size, data=data)


@pytest.mark.parametrize(
    ("item", "kind"),
    [
        (content("bin/x", b"echo", EXECUTABLE), "executable-no-shebang"),
        (content("bin/x.sh", b"#!/bin/sh\n"), "shebang-not-executable"),
        (content("big.bin", None, size=6_000_000), "large-file"),
        (content("gone.py", None, size=None), "missing-file"),
        (content("bin/x", b"#!/bin/sh\n", EXECUTABLE), None),
        (content("bin/x", b"\x7fELF\0", EXECUTABLE), None),
        (content("run.bat", b"echo", EXECUTABLE), None),
        (content("empty", b"", EXECUTABLE), None),
        (content("a.rs", b"#![allow(x)]\n"), None),
        (content("tests/x.sh", b"#!/bin/sh\n"), None),
    ],
)
def test_modes_and_sizes(item: Content, kind: str | None) -> None:
    language = language_of(item.entry.path, item.data)
    assert [finding.kind for finding in check_entry(item, language)] == ([kind] if kind else [])


def test_an_unfinished_merge_is_a_failure() -> None:
    here = Path("/nowhere")
    repo = Repo(top=here, common_dir=here, given=here, bare=False, shallow=False, head=None, branch="main")
    tracked = Tracked(repo=repo, entries=(), unmerged=("a.c",))
    (finding,) = check_tree(tracked, {}, set())
    assert (finding.kind, finding.severity, finding.file) == ("unmerged", "fail", "a.c")


def test_which_scripts_bash_and_node_judge() -> None:
    assert is_bash("x", b"#!/bin/bash\n")
    assert is_bash("x.sh", b"echo\n")
    assert not is_bash("x.sh", b"#!/bin/zsh\n")
    assert not is_bash("x", b"echo\n")
    assert is_javascript("a.mjs", b"")
    assert not is_javascript("a.min.js", b"")
    assert not is_javascript("a.jsx", b"")


def test_what_bash_says_becomes_a_finding() -> None:
    said = "bash: line 12: syntax error near unexpected token `fi'\nbash: line 12: `fi'\n"
    (finding,) = parse_bash_error(Script(path="a.sh", data=b"fi"), said)
    assert (finding.kind, finding.line) == ("shell-syntax", 12)
    assert list(parse_bash_error(Script(path="a.sh", data=b"{% if x %}"), said)) == []
    assert list(parse_bash_error(Script(path="a.sh", data=b""), "bash: warning: something\n")) == []
