"""The shape of the package: who may import whom, one door per dependency, quiet imports, short files."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "ai_infra"
#: A room may import what stands in a later line; never its neighbours in the same line.
ORDER = (
    {"cli"},
    {"app"},
    {"dashboard"},
    {"supervisor", "agents"},
    {
        "models", "tasks", "messages", "schedule", "memory", "permissions", "sandbox", "audit", "checkup",
    },
    {"connectors"},
    {"core"},
)  # fmt: skip
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
FREE = {"testing", "__init__"}

#: dependency → the only rooms that may import it
DOORS = {
    "redis": {"connectors"},
    "hiredis": {"connectors"},
    "psycopg": {"connectors"},
    "qdrant_client": {"connectors"},
    "click": {"cli"},
    "cryptography": {"messages"},
    "rich": {"dashboard"},
    "textual": {"dashboard"},
    "watchdog": {"dashboard"},
    "libtmux": set(),
    "tmuxp": set(),
    "pytest": set(),
    "hypothesis": set(),
}
#: Who starts a `tmux` process; `attach` becomes one, with the words that supervisor/tmux.py made.
TMUX_DOORS = {"supervisor/tmux.py", "cli/session.py"}

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
#: A dozen windows import this at once on two cores; more needs a reason: the inbox was one.
MAX_WINDOW_MODULES = 285
HEAVY = (
    "click", "rich", "watchdog", "psutil", "anthropic", "redis", "libtmux", "tmuxp", "textual",
    "cryptography", "importlib.metadata", "email", "http", "sqlite3", "ai_infra.checkup",
    "ai_infra.cli.main",
)  # fmt: skip

FILES = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(), name) for name, path in FILES.items()}
MODULES = [
    "ai_infra." + name.removesuffix(".py").replace("/", ".") for name in FILES if "__init__" not in name
]


# -- reading imports ----------------------------------------------------------------------------------------


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full name of all that a file imports: in functions, for types, by import_module, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and _callee(node) in ("import_module", "__import__") and node.args:
            yield node.lineno, _leading_text(node.args[0])


def room_of(name: str) -> str:
    """`supervisor/tmux.py` → supervisor; `testing.py` → testing."""
    return name.split("/")[0].removesuffix(".py")


def wrong_imports(room: str, tree: ast.AST) -> list[str]:
    """The imports of a file in `room` that go left or beside."""
    found = []
    for line, name in imports(tree):
        parts = name.split(".")
        if parts[0] != "ai_infra" or len(parts) < 2 or parts[1] == "__version__" or room in FREE:
            continue
        other = parts[1]
        if other != room and RANK.get(other, -1) <= RANK.get(room, len(ORDER)):
            found.append(f"line {line}: {room} imports {name}")
    return found


def _callee(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _leading_text(node: ast.expr | None) -> str:
    """The constant text that an expression begins with; empty if it begins with something else."""
    if isinstance(node, ast.JoinedStr):
        node = node.values[0] if node.values else None
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


# -- imports point one way ----------------------------------------------------------------------------------


def test_every_room_has_its_place_in_the_order() -> None:
    assert {room_of(name) for name in FILES} - RANK.keys() - FREE == set()


def test_imports_point_one_way() -> None:
    wrong = {name: wrong_imports(room_of(name), tree) for name, tree in TREES.items()}
    assert {name: found for name, found in wrong.items() if found} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import ai_infra.cli",
        "from ai_infra.app import window",
        "from ai_infra import dashboard",
        "def f():\n    from ai_infra.agents.worker import Worker",
        "if TYPE_CHECKING:\n    from ai_infra.agents.worker import Worker",
        "importlib.import_module('ai_infra.cli.task')",
        "importlib.import_module(f'ai_infra.cli.{name}')",
    ],
)
def test_a_wrong_import_is_seen_wherever_it_stands(source: str) -> None:
    assert len(wrong_imports("supervisor", ast.parse(source))) == 1
    assert wrong_imports("testing", ast.parse(source)) == []


@pytest.mark.parametrize(
    "source", ["from ai_infra.core import ids", "import ai_infra.supervisor.spec", "import os"]
)
def test_a_right_import_is_let_through(source: str) -> None:
    assert wrong_imports("supervisor", ast.parse(source)) == []


# -- one door per dependency --------------------------------------------------------------------------------


def beside_the_door(room: str, tree: ast.AST) -> list[str]:
    """The imports of a file in `room` that belong to another room."""
    return [
        f"line {line}: {name}"
        for line, name in imports(tree)
        if room not in DOORS.get(name.split(".")[0], {room})
    ]


def test_each_dependency_has_one_door() -> None:
    wrong = {name: beside_the_door(room_of(name), tree) for name, tree in TREES.items()}
    assert {name: found for name, found in wrong.items() if found} == {}
    assert beside_the_door("app", ast.parse("def f():\n    import redis.asyncio")) == [
        "line 2: redis.asyncio"
    ]


def starts_tmux(tree: ast.AST) -> bool:
    """Whether a file holds an argv that begins with tmux, or hands one to something that starts a process."""
    starting = re.compile(r"(create_subprocess_|exec[lv]|posix_spawn|spawn[lv]|popen|system|getoutput)")
    for node in ast.walk(tree):
        first = node.elts[0] if isinstance(node, ast.List | ast.Tuple) and node.elts else None
        if re.fullmatch(r"(/\S*/)?tmux", _leading_text(first)):
            return True
        if isinstance(node, ast.Call) and starting.match(_callee(node)):
            words = [_leading_text(word) for word in node.args[:2]]
            if any(re.match(r"(/\S*/)?tmux(\s|$)", word) for word in words):
                return True
    return False


def test_tmux_has_one_door() -> None:
    assert {name for name, tree in TREES.items() if starts_tmux(tree)} == TMUX_DOORS


@pytest.mark.parametrize(
    "source",
    [
        "subprocess.run(['tmux', 'kill-server'])",
        "argv = ('tmux', *words)",
        "os.system('tmux kill-server')",
        "await asyncio.create_subprocess_shell(f'tmux -L {name} ls')",
        "os.execvp('/usr/bin/tmux', words)",
    ],
)
def test_a_second_door_to_tmux_is_seen(source: str) -> None:
    assert starts_tmux(ast.parse(source))


def test_words_about_tmux_are_no_door() -> None:
    assert not starts_tmux(ast.parse("show('tmux attach'); load('tmux'); x = {'tmux': 1}; f('a', 'tmux')"))


# -- importing does nothing ---------------------------------------------------------------------------------

#: Runs in a fresh interpreter. Each module is imported in a child of its own, so alone and first.
_IMPORT_EACH = """
import json, os, sys, tempfile, traceback

def open_files():
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink("/proc/self/fd/" + fd))
        except OSError:
            pass  # the one that listdir used
    return found

def problem_of(module, out):
    before = open_files()
    environ = dict(os.environ)
    try:
        __import__(module)
    except BaseException:
        return traceback.format_exc()
    sys.stdout.flush(), sys.stderr.flush()
    said = os.pread(out, 1000, 0).decode(errors="replace")
    if said:
        return f"it printed {said!r}"
    if len(os.listdir("/proc/self/task")) > 1:
        return "it started a thread"
    if opened := open_files() - before:
        return f"it left open {opened}"
    if dict(os.environ) != environ:
        return "it changed the environment"

for module in json.load(sys.stdin):
    reading, writing = os.pipe()
    if os.fork() == 0:
        out = os.memfd_create("out")
        os.dup2(out, 1), os.dup2(out, 2)
        os.write(writing, str(problem_of(module, out) or "nothing").encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        said = pipe.read()
    os.wait()
    if said != "nothing":
        print(json.dumps([module, said or "it ended the interpreter"]), flush=True)
"""
#: Loaded beforehand, since they are not ours and would be loaded anew in each child.
_NOT_OURS = (
    "asyncio, click, hiredis, importlib.resources, psutil, rich.markdown, sqlite3, watchdog.observers, yaml"
)


def import_each(modules: list[str], path: Path = PACKAGE.parent) -> dict[str, str]:
    """Import each module alone, without environment, where nobody may write: module → problem."""
    code = f"import sys, {_NOT_OURS}; sys.path.insert(0, {str(path)!r}); {_IMPORT_EACH}"
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(modules), env={}, cwd="/proc",
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return dict(json.loads(line) for line in done.stdout.splitlines())


def test_importing_any_module_does_nothing() -> None:
    assert import_each(MODULES) == {}


def test_a_module_that_does_something_when_imported_is_seen(tmp_path: Path) -> None:
    deeds = {
        "print('hello')": "it printed 'hello",
        "import socket; s = socket.socket()": "it left open {'socket:",
        "import threading as t, time; t.Thread(target=time.sleep, args=(9,)).start()": "it started a thread",
        "import os; os.environ['HOME']": "KeyError: 'HOME'",
        "import os; os.environ['SET'] = '1'": "it changed the environment",
        "open('file', 'w')": "FileNotFoundError",
        "import os; os._exit(0)": "it ended the interpreter",
    }
    for i, deed in enumerate(deeds):
        (tmp_path / f"deed{i}.py").write_text(deed)
    found = import_each(["json", *(f"deed{i}" for i in range(len(deeds)))], tmp_path)
    told = {deed: found.get(f"deed{i}", "") for i, deed in enumerate(deeds)}
    unseen = {deed: words for deed, words in told.items() if deeds[deed] not in words}
    assert unseen == {}
    assert len(found) == len(deeds)


def test_what_a_window_loads_before_it_is_ready_stays_light() -> None:
    code = (
        "import json, sys, ai_infra.app.window, ai_infra.agents.worker, ai_infra.agents.mail; "
        "print(json.dumps(list(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = json.loads(done.stdout)
    assert [name for name in HEAVY if name in loaded] == []
    assert len(loaded) <= MAX_WINDOW_MODULES


# -- short files, short functions ---------------------------------------------------------------------------


def test_files_are_short() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in FILES.items()}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FILE_LINES} == {}


def test_functions_are_short() -> None:
    lengths = {
        f"{name}:{node.lineno} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {where: lines for where, lines in lengths.items() if lines > MAX_FUNCTION_LINES} == {}
