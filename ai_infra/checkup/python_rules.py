"""Python rules: mistakes one can see in a single node of the tree. Pure; silent rather than wrong.

A rule takes a path, a node and the names of the file (python_names.py), and yields findings; RULES says
which rule looks at which nodes. Tests are full of deliberate mistakes, so most rules leave them alone.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator

from ai_infra.checkup.findings import Finding, Severity, found, plural
from ai_infra.checkup.languages import is_test
from ai_infra.checkup.python_names import Names

Rule = Callable[[str, ast.AST, Names], Iterator[Finding]]
Function = ast.FunctionDef | ast.AsyncFunctionDef

KEYS_SAID = 5

_MUTATORS = {"append", "extend", "insert", "add", "update", "setdefault", "pop", "remove", "clear", "discard"}
_OUTSIDE = re.compile(r"\b(input|raw_input|request|argv|environ|getenv|recv|stdin)\b")
_DELIBERATE = re.compile(r"^_|cache|memo|registry", re.IGNORECASE)


def bare_except(path: str, node: ast.AST, names: Names) -> Iterator[Finding]:
    """`except:` that does not raise again."""
    assert isinstance(node, ast.ExceptHandler)
    if node.type is None and not is_test(path) and not any(isinstance(n, ast.Raise) for n in ast.walk(node)):
        yield found("bare-except", "bare except: catches Ctrl-C and exit as well", path, node.lineno)


def evaluated(path: str, node: ast.AST, names: Names) -> Iterator[Finding]:
    """The builtins eval and exec, given anything but a literal."""
    assert isinstance(node, ast.Call)
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    if name not in ("eval", "exec") or name in names.bound or not node.args or is_test(path):
        return
    if isinstance(node.args[0], ast.Constant):
        return
    if outside := _OUTSIDE.search(ast.unparse(node.args[0])):
        words = f"{name}() of text that comes from outside ({outside[1]})"
        yield found("eval", words, path, node.lineno)
    else:
        yield found("eval", f"{name}() of computed text", path, node.lineno, Severity.INFO)


def raised(path: str, node: ast.AST, names: Names) -> Iterator[Finding]:
    """`raise NotImplemented`."""
    assert isinstance(node, ast.Raise)
    kind = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
    if isinstance(kind, ast.Name) and kind.id == "NotImplemented":
        words = "raises NotImplemented, which is no exception; NotImplementedError is"
        yield found("likely-bug", words, path, node.lineno)


def dict_keys(path: str, node: ast.AST, names: Names) -> Iterator[Finding]:
    """Keys that stand twice in one dict, with different values; one finding for a dict."""
    assert isinstance(node, ast.Dict)
    seen: dict[tuple[type, object], str] = {}
    twice: list[ast.Constant] = []
    for key, value in zip(node.keys, node.values, strict=True):
        if isinstance(key, ast.Constant):
            said, mark = ast.dump(value), (type(key.value), key.value)
            if seen.get(mark, said) != said:
                twice.append(key)
            seen[mark] = said
    if twice:
        keys = ", ".join(repr(key.value) for key in twice[:KEYS_SAID])
        more = f" and {len(twice) - KEYS_SAID} more" if len(twice) > KEYS_SAID else ""
        count = "the key" if len(twice) == 1 else plural(len(twice), "key")
        words = f"the dict has {count} twice: {keys}{more}"
        yield found("duplicate-key", words, path, twice[0].lineno, Severity.INFO if is_test(path) else None)


def function(path: str, node: ast.AST, names: Names) -> Iterator[Finding]:
    """Mutable defaults that calls share, where that can matter, and what body() looks for."""
    assert isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    for arg, value in _defaults(node):
        if not _is_mutable(value) or _DELIBERATE.search(arg.arg):
            continue
        words = f"{node.name}(): the default of {arg.arg} is mutable"
        if _is_changed(node, arg.arg):
            # A default that is not empty is often meant as a memory between calls.
            severity = Severity.WARN if _is_empty(value) and not is_test(path) else Severity.INFO
            message = f"{words} and changed here: calls share it"
            yield found("mutable-default", message, path, value.lineno, severity)
        elif _is_kept(node, arg.arg):
            yield found("mutable-default", f"{words} and handed on: calls share it", path, value.lineno)
    yield from body(path, node, names)


def body(path: str, node: ast.AST, names: Names) -> Iterator[Finding]:
    """Two plain definitions of one name in one block: the first can never be reached."""
    first: dict[str, int] = {}
    for child in getattr(node, "body", ()):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        earlier = first.get(child.name)
        first[child.name] = child.lineno
        if child.decorator_list or child.name == "_":
            first.pop(child.name)
        elif earlier is not None and not _is_used(child, earlier, names) and _matters(path, child.name):
            words = f"{child.name} replaces the definition in line {earlier}, which is never used"
            yield found("shadowed-definition", words, path, child.lineno)


RULES: dict[type, Rule] = {
    ast.Module: body,
    ast.ClassDef: body,
    ast.FunctionDef: function,
    ast.AsyncFunctionDef: function,
    ast.ExceptHandler: bare_except,
    ast.Call: evaluated,
    ast.Raise: raised,
    ast.Dict: dict_keys,
}


def _is_used(again: Function | ast.ClassDef, earlier: int, names: Names) -> bool:
    return any(earlier < line <= again.lineno for line in names.loaded.get(again.name, ()))


def _matters(path: str, name: str) -> bool:
    """In tests only a test that never runs does; the rest is material."""
    return not is_test(path) or name.lower().startswith("test")


def _defaults(node: Function) -> list[tuple[ast.arg, ast.expr]]:
    args = node.args
    positional = args.posonlyargs + args.args
    first = len(positional) - len(args.defaults)
    pairs = list(zip(positional[first:], args.defaults, strict=True))
    return pairs + [(a, v) for a, v in zip(args.kwonlyargs, args.kw_defaults, strict=True) if v is not None]


def _is_mutable(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in ("list", "dict", "set")
    return isinstance(node, (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp))


def _is_empty(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        return not node.args and not node.keywords
    return isinstance(node, (ast.List, ast.Dict)) and not (
        node.elts if isinstance(node, ast.List) else node.keys
    )


def _is_changed(node: Function, name: str) -> bool:
    """Whether the body changes a parameter's value in place and never gives the parameter another one."""
    changed, in_place = False, set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.AugAssign) and _is_name(inner.target, name):
            changed = True
            in_place.add(inner.target)
        elif isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store) and inner.id == name:
            if inner not in in_place:
                return False
        elif isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute):
            changed |= inner.func.attr in _MUTATORS and _is_name(inner.func.value, name)
        elif isinstance(inner, ast.Subscript) and isinstance(inner.ctx, (ast.Store, ast.Del)):
            changed |= _is_name(inner.value, name)
    return changed


def _is_kept(node: Function, name: str) -> bool:
    """Whether the value leaves the call as it is: returned, or stored on an object."""
    kept = False
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store) and inner.id == name:
            return False
        if isinstance(inner, ast.Return):
            kept |= inner.value is not None and _is_name(inner.value, name)
        elif isinstance(inner, ast.Assign):
            attribute = any(isinstance(target, ast.Attribute) for target in inner.targets)
            kept |= attribute and _is_name(inner.value, name)
    return kept


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name
