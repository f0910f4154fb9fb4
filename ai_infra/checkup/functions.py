"""Functions of a Python file: where they are, how long, how branchy. Pure; needs a parsed tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

_BRANCHES = (
    ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.Assert, ast.match_case,
)  # fmt: skip
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, kw_only=True)
class Function:
    """One function or method; a function inside it is counted by itself, not here."""

    name: str  #: with its classes: `Reader.next`
    line: int
    lines: int
    complexity: int  #: McCabe: 1 + the places where it can go two ways


def functions_of(tree: ast.Module) -> list[Function]:
    """Every function of a module, the inner ones too, in the order they stand."""
    return list(_walk(tree, ""))


def module_complexity(tree: ast.Module, functions: list[Function]) -> int:
    """The branches of a file: those of its functions and those outside of any."""
    return sum(function.complexity for function in functions) + _own_branches(tree)


def _walk(node: ast.AST, prefix: str) -> Iterator[Function]:
    stack: list[tuple[ast.AST, str]] = [(node, prefix)]
    while stack:
        parent, names = stack.pop()
        inner: list[tuple[ast.AST, str]] = []
        for child in ast.iter_child_nodes(parent):
            if isinstance(child, _FUNCTIONS):
                yield _function(child, names)
                inner.append((child, f"{names}{child.name}."))
            elif isinstance(child, ast.ClassDef):
                inner.append((child, f"{names}{child.name}."))
            elif isinstance(child, (ast.stmt, ast.excepthandler, ast.match_case)):
                inner.append((child, names))
        stack.extend(reversed(inner))


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, prefix: str) -> Function:
    last = node.end_lineno or node.lineno
    return Function(
        name=prefix + node.name,
        line=node.lineno,
        lines=last - node.lineno + 1,
        complexity=1 + _own_branches(node),
    )


def _own_branches(node: ast.AST) -> int:
    """Branches under a node, without those of the functions inside."""
    count, stack = 0, list(ast.iter_child_nodes(node))
    while stack:
        child = stack.pop()
        if isinstance(child, _FUNCTIONS):
            continue
        count += _weight(child)
        stack.extend(ast.iter_child_nodes(child))
    return count


def _weight(node: ast.AST) -> int:
    if isinstance(node, _BRANCHES):
        return 1
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    return 1 + len(node.ifs) if isinstance(node, ast.comprehension) else 0
