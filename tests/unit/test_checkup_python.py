"""The Python linter: what it must find, and what it must leave alone."""

from __future__ import annotations

import sys
import textwrap

import pytest

from ai_infra.checkup.findings import Finding
from ai_infra.checkup.functions import functions_of, module_complexity
from ai_infra.checkup.python_source import Source, check, unused_imports
from ai_infra.checkup.python_syntax import oldest_supported, parse


def lint(code: str, path: str = "src/a.py") -> list[Finding]:
    """Everything found in one file."""
    data = textwrap.dedent(code).encode()
    parsed = parse(path, data)
    if parsed.tree is None:
        return list(parsed.findings)
    source = check(path, parsed.tree, data.decode())
    return [*parsed.findings, *source.findings, *unused_imports([source])]


def kinds(code: str, path: str = "src/a.py") -> list[str]:
    return [finding.kind for finding in lint(code, path)]


def read(path: str, code: str) -> Source:
    data = textwrap.dedent(code).encode()
    tree = parse(path, data).tree
    assert tree is not None
    return check(path, tree, data.decode())


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("def f(:\n    pass\n", "python-syntax"),
        ("return 1\n", "python-syntax"),
        ("x = 'a\0b'\n", "python-syntax"),
        ("def f():\n\tif x:\n        return 1\n", "python-syntax"),
        ("print 'hello'\n", "python-2"),
        ("try:\n    pass\nexcept ValueError, e:\n    pass\n", "python-2"),
        ("import os\nos.chmod('a', 0755)\n", "python-2"),
        ("raise ValueError, 'no'\n", "python-2"),
    ],
)
def test_a_file_that_does_not_compile(code: str, kind: str) -> None:
    assert kinds(code) == [kind]


def test_a_syntax_error_names_its_line_and_the_python_that_judged() -> None:
    (finding,) = lint("x = 1\ny = (\n")
    assert finding.line == 2
    assert f"Python {sys.version_info[0]}.{sys.version_info[1]}" in finding.message


def test_a_coding_cookie_is_honoured() -> None:
    data = "# -*- coding: latin-1 -*-\nname = 'J\xf6rg'\n".encode("latin-1")
    assert parse("a.py", data).findings == ()
    assert parse("a.py", data.split(b"\n", 1)[1]).findings[0].kind == "python-syntax"


def test_deep_nesting_is_a_finding_not_a_crash() -> None:
    assert kinds("(" * 5000 + ")" * 5000) == ["python-syntax"]
    assert kinds("x = " + "-" * 100_000 + "1") == ["python-syntax"]


def test_broken_files_of_tests_are_remarks() -> None:
    (finding,) = lint("def f(:\n", "tests/data/broken.py")
    assert (finding.kind, finding.severity) == ("broken-test-data", "info")
    assert kinds("def f(:\n", "tests/test_a.py") == ["python-syntax"]


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="this Python knows the syntax")
def test_newer_syntax_is_not_judged() -> None:
    assert kinds("def first[T](values: list[T]) -> T:\n    return values[0]\n") == ["not-judged"]
    assert kinds("type Row = tuple[int, str]\n") == ["not-judged"]


def test_the_oldest_python_a_project_supports() -> None:
    assert oldest_supported({"pyproject.toml": b'requires-python = ">=3.12"\n'}) == (3, 12)
    assert oldest_supported({"setup.cfg": b"python_requires = >=3.9\n"}) == (3, 9)
    assert oldest_supported({}) is None
    assert parse("a.py", b"def f(:\n", (3, 99)).findings[0].kind == "not-judged"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("import os\n\n\ndef f():\n    return 1\n", "unused-import"),
        ("from a import b as c\n\n\ndef f():\n    return b\n", "undefined-name"),
        ("def f():\n    return missing\n", "undefined-name"),
        ("def f():\n    try:\n        g()\n    except:\n        pass\n\n\ndef g(): ...\n", "bare-except"),
        ("def f(a):\n    return eval(a)\n", "eval"),
        ("def f(seen_by=[]):\n    def g(): ...\n    def g(): ...\n", "shadowed-definition"),
        ("def f(rows=[]):\n    rows.append(1)\n", "mutable-default"),
        ("def f(rows={}):\n    rows['a'] = 1\n", "mutable-default"),
        ("def f(self, rows=[]):\n    self.rows = rows\n", "mutable-default"),
        ("def f(*, rows=dict()):\n    rows |= {1: 2}\n", "mutable-default"),
        ("class A:\n    def m(self): ...\n    def m(self): ...\n", "shadowed-definition"),
        ("x = {'a': 1, 'b': 2, 'a': 3}\n", "duplicate-key"),
        ("def f():\n    raise NotImplemented\n", "likely-bug"),
        ("def f(x):\n    assert (x, 'message')\n", "likely-bug"),
        ("def f(x):\n    return x is 'a'\n", "likely-bug"),
        ("x = '\\d'\n", "invalid-escape"),
    ],
)
def test_a_mistake_is_found(code: str, kind: str) -> None:
    assert kind in kinds(code)


@pytest.mark.parametrize(
    "code",
    [
        "import os\n\nprint(os.name)\n",
        "import os.path\n\nprint(os.sep)\n",
        "from __future__ import annotations\n\n\ndef f() -> None: ...\n",
        "try:\n    import yaml\nexcept ImportError:\n    yaml = None\n\n\ndef f(): ...\n",
        "try:\n    import fast\nexcept (ImportError, OSError):\n    pass\n\n\ndef f(): ...\n",
        "from s import suppress\n\nwith suppress(ImportError):\n    import fast\n\n\ndef f(): ...\n",
        "import os  # noqa: F401\n\n\ndef f(): ...\n",
        "from a import (  # noqa\n    b,\n    c,\n)\n\n\ndef f(): ...\n",
        "from a import b as b\n\n\ndef f(): ...\n",
        "from typing import List\n\n\ndef f(x: 'List[int]'): ...\n",
        "from a import b\n\n__all__ = ['b']\n\n\ndef f(): ...\n",
        "from a import b\nfrom c import d\n",
        "from a import *\n\nprint(whatever)\n",
        "import readline\n\n\ndef f(): ...\n",
        "from fixtures import database\n\n\ndef test_it(database): ...\n",
    ],
)
def test_a_used_or_meant_import_is_left_alone(code: str) -> None:
    assert kinds(code) == []


@pytest.mark.parametrize(
    "code",
    [
        "def f():\n    return g()\n\n\ndef g(): ...\n",
        "class A:\n    x = __qualname__\n",
        "try:\n    strange\nexcept NameError:\n    pass\n",
        "def f():\n    global later\n    later = 1\n\n\ndef g():\n    return later\n",
        "import sys\n\nglobals()['x'] = sys\nprint(x)\n",
        "for i in range(3):\n    pass\nprint(i, [j for j in range(3)])\n",
        "def f(v):\n    match v:\n        case {'a': a, **rest}:\n            return a, rest\n"
        "        case [first, *others]:\n            return first, others\n",
        "with open('a') as file, open('b') as (c):\n    print(file, c, (n := 3), n)\n",
        "try:\n    pass\nexcept ValueError as exc:\n    print(exc)\n",
        "def f(a, /, b, *args, c=1, **kwargs):\n    return a, b, args, c, kwargs\n",
        "import builtins\n\nbuiltins.extra = 1\nprint(extra)\n",
        "f = lambda q: q\n",
    ],
)
def test_a_defined_name_is_left_alone(code: str) -> None:
    assert kinds(code) == []


@pytest.mark.parametrize(
    "code",
    [
        "def f(rows=None, n=(1, 2)):\n    return rows, n\n",
        "def f(rows=[]):\n    rows = list(rows)\n    rows.append(1)\n",
        "def f(rows=[]):\n    return len(rows)\n",
        "def f(_cache={}):\n    _cache[1] = 2\n",
        "import t\n\n\n@t.overload\ndef f(a: int): ...\n@t.overload\ndef f(a: str): ...\ndef f(a): ...\n",
        "class A:\n    @property\n    def m(self): ...\n    @m.setter\n    def m(self, v): ...\n",
        "def f(): ...\n\n\nx = f\n\n\ndef f(): ...\n",
        "import sys\n\nif sys.platform == 'x':\n    def f(): ...\nelse:\n    def f(): ...\n",
        "try:\n    print()\nexcept:\n    print('clean up')\n    raise\n",
        "x = {'a': 1, 'b': 2, 1: 3, True: 4}\n",
        "x = {**{}, **{}}\n",
        "def f(x):\n    return x.eval('1'), eval('1 + 1')\n",
        "def eval(x): ...\n\n\ndef f(x):\n    return eval(x)\n",
        "x = r'\\d'\n",
    ],
)
def test_what_only_looks_like_a_mistake_is_left_alone(code: str) -> None:
    assert kinds(code) == []


def test_eval_of_outside_text_is_worse_than_of_computed_text() -> None:
    assert lint("import sys\n\neval(sys.argv[1])\n")[0].severity == "warn"
    assert lint("def f(a):\n    return eval(a)\n")[0].severity == "info"


def test_a_changed_empty_default_is_worse_than_one_that_holds_a_counter() -> None:
    assert lint("def f(a=[]):\n    a.append(1)\n")[0].severity == "warn"
    assert lint("def f(a=[0]):\n    a[0] += 1\n")[0].severity == "info"


def test_a_test_that_never_runs_is_found_and_the_material_of_tests_is_not() -> None:
    twice = "def {name}(): ...\n\n\ndef {name}(): ...\n"
    assert kinds(twice.format(name="test_a"), "tests/test_a.py") == ["shadowed-definition"]
    assert kinds(twice.format(name="helper"), "tests/test_a.py") == []


def test_an_import_another_file_takes_from_here_is_used() -> None:
    compat = read("pkg/compat.py", "from json import dumps, loads\n\n\ndef f(): ...\n")
    direct = read("pkg/a.py", "from pkg.compat import dumps\n\nprint(dumps)\n")
    by_attribute = read("pkg/b.py", "from pkg import compat\n\nprint(compat.loads)\n")
    by_patch = read("tests/test_c.py", "def test_it(patch):\n    patch('pkg.compat.loads')\n")
    assert len(list(unused_imports([compat]))) == 2
    assert [f.message for f in unused_imports([compat, direct])] == ["json.loads is imported but not used"]
    assert list(unused_imports([compat, direct, by_attribute])) == []
    assert list(unused_imports([compat, direct, by_patch])) == []


def test_an_unused_import_is_reported_on_its_own_line() -> None:
    (finding,) = lint("from m import (\n    b,\n    c,\n)\n\nprint(b)\n")
    assert (finding.line, finding.message) == (3, "m.c is imported but not used")


def test_stubs_are_not_code() -> None:
    assert kinds("import os\n\n\ndef f(a=[]) -> List: ...\n", "a.pyi") == []


def test_functions_have_a_length_and_a_complexity() -> None:
    tree = parse(
        "a.py",
        textwrap.dedent("""
        class Reader:
            def next(self, rows):
                for row in rows:
                    if row and row.good or row.late:
                        return [r for r in row if r]
                def inner():
                    return 1 if rows else 2
                return inner

        if True:
            async def late():
                assert True
        """).encode(),
    ).tree
    assert tree is not None
    functions = {function.name: function for function in functions_of(tree)}
    assert set(functions) == {"Reader.next", "Reader.next.inner", "late"}
    assert functions["Reader.next"].complexity == 1 + 1 + 1 + 2 + 2
    assert functions["Reader.next"].lines == 7
    assert functions["Reader.next.inner"].complexity == 2
    assert module_complexity(tree, list(functions.values())) == 7 + 2 + 2 + 1
