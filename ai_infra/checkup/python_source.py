"""Python sources: a compact linter that prefers silence to a wrong word. Pure: a parsed tree in.

Findings out.

A name counts as defined when anything in the file binds it, in whatever scope and order, and as used when
anything mentions it, a string annotation or a comment too. What is left is nearly always a mistake. Imports
that look unused are kept as candidates until every file was read, since another file may use them from
here: see unused_imports().
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ai_infra.checkup.findings import Finding, Severity, found
from ai_infra.checkup.languages import is_fixture, is_test
from ai_infra.checkup.python_names import Import, Names, read_names
from ai_infra.checkup.python_rules import RULES

_KNOWN = frozenset(dir(builtins)) | {
    "__file__", "__path__", "__builtins__", "__class__", "__module__", "__qualname__", "__annotations__",
    "__dict__", "__cached__", "_", "ngettext", "WindowsError", "EncodingWarning",
    "PythonFinalizationError", "_IncompleteInputError",
    "reveal_type", "reveal_locals", "get_ipython", "display",
    # Python 2, asked for under a guard by code that runs on both
    "unicode", "basestring", "long", "xrange", "raw_input", "unichr", "reduce", "file", "execfile", "cmp",
    "buffer", "intern", "apply", "reload", "coerce",
}  # fmt: skip
_FOR_EFFECT = {"__main__", "readline", "rlcompleter", "antigravity", "this"}
_SILENT = re.compile(r"#.*\b(noqa|nosec|pylint:\s*disable|type:\s*ignore|pragma|pyright:\s*ignore)")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, kw_only=True)
class Source:
    """What one file says: findings, and what must wait for the other files."""

    path: str
    findings: tuple[Finding, ...]
    unused: tuple[Import, ...]
    exports: frozenset[tuple[str, str]]


def check(path: str, tree: ast.Module, text: str) -> Source:
    """Look at one parsed file; `text` is its source, for the comments that ask for silence."""
    names, lines = read_names(tree), text.splitlines()
    findings: list[Finding] = []
    stub = path.endswith(".pyi")  # describes another file: nothing in it runs
    if not is_fixture(path) and not stub:
        for node in ast.walk(tree):
            rule = RULES.get(type(node))
            if rule is not None:
                findings += rule(path, node, names)
        findings += _undefined(path, names)
    silent = {number for number, line in enumerate(lines, 1) if _SILENT.search(line)}
    return Source(
        path=path,
        findings=tuple(f for f in sorted(findings, key=lambda f: f.line or 0) if f.line not in silent),
        unused=tuple(i for i in _unused(path, tree, names, lines) if not _is_silent(i, silent)),
        exports=frozenset(names.exports),
    )


def unused_imports(sources: Iterable[Source]) -> Iterator[Finding]:
    """The imports nothing uses: not their own file, and no other file through this one."""
    everything = list(sources)
    exported = {pair for source in everything for pair in source.exports}
    for source in everything:
        module = source.path.removesuffix(".py").rpartition("/")[2]
        for name in source.unused:
            if (module, name.bound) not in exported:
                yield found("unused-import", f"{name.said} is imported but not used", source.path, name.line)


def _unused(path: str, tree: ast.Module, names: Names, lines: list[str]) -> list[Import]:
    if path.endswith(("__init__.py", ".pyi")) or names.dynamic or is_fixture(path) or _only_passes_on(tree):
        return []
    found_unused = [i for i in names.imports if i.bound not in names.loaded and i.bound not in names.stored]
    if not found_unused:
        return []
    # Rarely reached, so it may be slow: a name that stands in any string or type comment counts as used.
    mentioned = set(re.findall(r"\w+", "\n".join(names.strings)))
    for line in lines:
        if "# type:" in line:
            mentioned.update(re.findall(r"\w+", line.partition("# type:")[2]))
    return [i for i in found_unused if i.bound not in mentioned and i.bound not in _FOR_EFFECT]


def _only_passes_on(tree: ast.Module) -> bool:
    """Whether a module has nothing but imports and assignments: its imports are what it is for."""
    kinds = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
    return all(isinstance(n, kinds) or _is_docstring(n) for n in tree.body)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_silent(name: Import, silent: set[int]) -> bool:
    return name.line in silent or name.statement in silent


def _undefined(path: str, names: Names) -> Iterator[Finding]:
    if names.dynamic:
        return
    mentioned = set(names.strings)  # a name given as a string may be bound by whoever gets it
    severity = Severity.INFO if is_test(path) else None
    for name, lines in names.loaded.items():
        if name in names.bound or name in _KNOWN or name in mentioned or names.guarded.intersection(lines):
            continue
        times = f" ({len(lines)} times)" if len(lines) > 1 else ""
        yield found(
            "undefined-name", f"{name} is defined nowhere in this file{times}", path, min(lines), severity
        )
