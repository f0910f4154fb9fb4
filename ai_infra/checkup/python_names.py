"""Python names: which names a file binds, uses and mentions. Pure; needs a parsed tree.

A name counts as bound when anything in the file binds it, in whatever scope and order; that is what makes the
conclusions of python_source.py safe.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

_DYNAMIC = {"globals", "exec", "execfile"}
_GUARDS = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException", "AttributeError"}


@dataclass(frozen=True, kw_only=True)
class Import:
    """One name an import statement binds."""

    bound: str
    said: str  #: as written: `os.path`, `json.loads as loads`
    line: int
    statement: int  #: the line where the statement begins: a comment there speaks for all its names


@dataclass(kw_only=True)
class Names:
    """Which names a file binds, uses and mentions."""

    bound: set[str] = field(default_factory=set)
    stored: set[str] = field(default_factory=set)  #: bound by something else than an import
    loaded: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    guarded: set[int] = field(default_factory=set)  #: lines inside `try … except NameError`
    imports: list[Import] = field(default_factory=list)
    strings: list[str] = field(default_factory=list)
    exports: set[tuple[str, str]] = field(default_factory=set)  #: (last word of a module, name it gives)
    dynamic: bool = False  #: a star import, exec or globals(): names cannot be known


def read_names(tree: ast.Module) -> Names:
    """Every binding, use and mention in a file."""
    names = Names()
    stack: list[tuple[ast.AST, bool, bool]] = [(tree, False, False)]  # node, import guarded, name guarded
    while stack:
        node, guarded, tried = stack.pop()
        reader = _READERS.get(type(node))
        if reader is not None:
            reader(node, names)
        if isinstance(node, (ast.Import, ast.ImportFrom)) and not guarded:
            names.imports += _imports(node)
        if tried and isinstance(node, ast.Name):
            names.guarded.add(node.lineno)
        guarded, tried = guarded or _guards(node, _GUARDS), tried or _guards(node, {"NameError"})
        stack.extend((child, guarded, tried) for child in ast.iter_child_nodes(node))
    return names


def _guards(node: ast.AST, wanted: set[str]) -> bool:
    """Whether a node is a `try` (or a `with suppress`) that expects one of these errors."""
    if isinstance(node, ast.Try):
        caught = [handler.type for handler in node.handlers]
        return None in caught or any(_caught(kind) & wanted for kind in caught if kind is not None)
    if isinstance(node, ast.With):
        calls = [item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)]
        return any(_caught(arg) & wanted for call in calls for arg in call.args)
    return False


def _caught(node: ast.expr) -> set[str]:
    nodes = node.elts if isinstance(node, ast.Tuple) else [node]
    return {n.id if isinstance(n, ast.Name) else getattr(n, "attr", "") for n in nodes}


def _imports(node: ast.Import | ast.ImportFrom) -> Iterator[Import]:
    module = f"{'.' * node.level}{node.module or ''}." if isinstance(node, ast.ImportFrom) else ""
    if module == "__future__.":
        return
    for alias in node.names:
        if alias.name != "*" and alias.asname != alias.name:
            bound = alias.asname or alias.name.partition(".")[0]
            said = (
                f"{module}{alias.name}".replace("..", ".")
                if not module.startswith(".")
                else f"{module}{alias.name}"
            )
            yield Import(
                bound=bound,
                said=said + (f" as {alias.asname}" if alias.asname else ""),
                line=alias.lineno,
                statement=node.lineno,
            )


def _read_import(node: ast.AST, names: Names) -> None:
    assert isinstance(node, (ast.Import, ast.ImportFrom))
    for alias in node.names:
        if alias.name == "*":
            names.dynamic = True
        names.bound.add(alias.asname or alias.name.partition(".")[0])
        if isinstance(node, ast.ImportFrom):
            names.exports.add(((node.module or "").rpartition(".")[2], alias.name))


def _read_name(node: ast.AST, names: Names) -> None:
    assert isinstance(node, ast.Name)
    if isinstance(node.ctx, ast.Load):
        names.loaded[node.id].append(node.lineno)
    else:
        names.bound.add(node.id)
        names.stored.add(node.id)


def _read_attribute(node: ast.AST, names: Names) -> None:
    assert isinstance(node, ast.Attribute)
    base = node.value
    if isinstance(base, (ast.Name, ast.Attribute)):
        last = base.id if isinstance(base, ast.Name) else base.attr
        names.exports.add((last, node.attr))
        if node.attr == "_convert_":  # IntEnum._convert_ puts the members into the module
            names.dynamic = True
        if last in ("builtins", "__builtin__", "__builtins__") and isinstance(node.ctx, ast.Store):
            names.bound.add(node.attr)


def _read_definition(node: ast.AST, names: Names) -> None:
    assert isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    names.bound.add(node.name)
    names.stored.add(node.name)
    for param in getattr(node, "type_params", ()):
        names.bound.add(param.name)


def _read_arg(node: ast.AST, names: Names) -> None:
    assert isinstance(node, ast.arg)
    names.bound.add(node.arg)
    # A pytest fixture is used by the name of a parameter.
    names.loaded[node.arg].append(node.lineno)


def _read_field(node: ast.AST, names: Names) -> None:
    for attribute in ("name", "rest"):
        if name := getattr(node, attribute, None):
            names.bound.add(name)


def _read_global(node: ast.AST, names: Names) -> None:
    assert isinstance(node, (ast.Global, ast.Nonlocal))
    names.bound.update(node.names)


def _read_call(node: ast.AST, names: Names) -> None:
    assert isinstance(node, ast.Call)
    if isinstance(node.func, ast.Name) and node.func.id in _DYNAMIC:
        names.dynamic = True


def _read_constant(node: ast.AST, names: Names) -> None:
    assert isinstance(node, ast.Constant)
    if isinstance(node.value, str) and len(node.value) < 100_000:
        names.strings.append(node.value)
        if re.fullmatch(r"[\w.]+\.\w+", node.value):  # "package.module.name", as mock.patch wants it
            words = node.value.split(".")
            names.exports.add((words[-2], words[-1]))


_READERS = {
    ast.Import: _read_import,
    ast.ImportFrom: _read_import,
    ast.Name: _read_name,
    ast.Attribute: _read_attribute,
    ast.FunctionDef: _read_definition,
    ast.AsyncFunctionDef: _read_definition,
    ast.ClassDef: _read_definition,
    ast.arg: _read_arg,
    ast.ExceptHandler: _read_field,
    ast.MatchAs: _read_field,
    ast.MatchStar: _read_field,
    ast.MatchMapping: _read_field,
    ast.Global: _read_global,
    ast.Nonlocal: _read_global,
    ast.Call: _read_call,
    ast.Constant: _read_constant,
}
