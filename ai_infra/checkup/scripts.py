"""Scripts: syntax checks that need another program, bash or node.

Which reads the source and executes nothing.

Sources go in by standard input, so no file of the repository is named on a command line, and the
environment is empty but for PATH, so nothing is sourced at start.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ai_infra.checkup.findings import Finding, found
from ai_infra.checkup.languages import is_fixture, is_generated, shebang
from ai_infra.checkup.parsers import is_template, syntax

ONE_FILE_S = 5.0
SHELL_S = 8.0  #: for all shell scripts together
NODE_S = 20.0
MAX_BYTES = 1_000_000
NODE_BYTES = 30_000_000  #: of all JavaScript together

_BASH_SHELLS = {"sh", "bash", "dash"}
_ERROR = re.compile(r"line (\d+): (.*)")
_OTHER_DIALECT = re.compile(
    rb"@flow|</\w|/>|\bReact\.|^[ \t]*(import|export) type |@jsx|^[ \t]*@\w+\(", re.MULTILINE
)

# Only compiles: a script, a module, then the body of a function (CommonJS may return at the top).
_NODE = r"""
const vm = require('vm');
const files = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const ways = [
  s => new vm.Script(s, {filename: 'f'}),
  s => new vm.SourceTextModule(s, {identifier: 'f'}),
  s => new vm.Script('(async function(){' + s.replace(/^#!.*/, '') + '\n})', {filename: 'f'}),
];
const out = {};
for (const [name, source] of Object.entries(files)) {
  const errors = [];
  for (const way of ways) {
    try { way(source); errors.length = 0; break; } catch (e) { errors.push(e); }
  }
  if (errors.length) {
    const e = /\b(import|export)\b/.test(errors[0].message) ? errors[1] : errors[0];
    const at = /^f:(\d+)/.exec(String(e.stack));
    out[name] = [at ? Number(at[1]) : null, String(e.message)];
  }
}
console.log(JSON.stringify(out));
"""


@dataclass(frozen=True, kw_only=True)
class Script:
    """A source to check."""

    path: str
    data: bytes


def is_bash(path: str, data: bytes) -> bool:
    """Whether bash can judge a file: by its first line, or by its name when it has none."""
    named = shebang(data)
    if named is not None:
        return named in _BASH_SHELLS
    return path.endswith((".sh", ".bash")) and b"#compdef" not in data[:200]


def is_javascript(path: str, data: bytes) -> bool:
    """Plain JavaScript, as far as the name and the content tell."""
    return path.endswith((".js", ".mjs", ".cjs")) and not is_generated(path, data) and not is_fixture(path)


def check_shell(scripts: Iterable[Script]) -> Iterator[Finding]:
    """`bash -n` over each script; says so when the time was not enough for all."""
    bash = shutil.which("bash")
    todo = [script for script in scripts if len(script.data) <= MAX_BYTES and b"\0" not in script.data]
    if bash is None:
        if todo:
            yield found("not-judged", f"{len(todo)} shell scripts: bash is not installed")
        return
    deadline = time.monotonic() + SHELL_S
    for number, script in enumerate(todo):
        if time.monotonic() > deadline:
            yield found("not-judged", f"{len(todo) - number} of {len(todo)} shell scripts: the time was up")
            return
        yield from parse_bash_error(script, _bash(bash, script))


def parse_bash_error(script: Script, stderr: str) -> Iterator[Finding]:
    """The first complaint of bash, with the line it names."""
    if "syntax error" not in stderr and "unexpected" not in stderr and "bad substitution" not in stderr:
        return
    if is_template(script.data) and re.search(rb"\{\{|\{%|<%", script.data):
        return
    match = _ERROR.search(stderr)
    message, line = (match[2], int(match[1])) if match else (stderr.split("\n", 1)[0], None)
    yield syntax("shell-syntax", script.path, message, line)


def check_javascript(scripts: Iterable[Script]) -> Iterator[Finding]:
    """One node process compiles every source; JSX, Flow and templates are not judged."""
    node = shutil.which("node")
    every = [script for script in scripts if len(script.data) <= MAX_BYTES]
    if node is None:
        if every:
            yield found("not-judged", f"{len(every)} JavaScript files: node is not installed")
        return
    todo = {str(number): script for number, script in enumerate(_up_to(every, NODE_BYTES))}
    if len(todo) < len(every):
        yield found("not-judged", f"{len(every) - len(todo)} of {len(every)} JavaScript files: too many")
    if not todo:
        return
    answer = _node(node, {name: script.data.decode("utf-8", "replace") for name, script in todo.items()})
    if answer is None:
        yield found("not-judged", f"{len(todo)} JavaScript files: node did not finish")
        return
    for name, (line, message) in answer.items():
        script = todo[name]
        if not _OTHER_DIALECT.search(script.data) and not is_template(script.data):
            yield syntax("javascript-syntax", script.path, message, line)


def _up_to(scripts: Iterable[Script], limit: int) -> Iterator[Script]:
    """The first scripts that are not larger than `limit` bytes together."""
    total = 0
    for script in scripts:
        total += len(script.data)
        if total <= limit:
            yield script


def _bash(bash: str, script: Script) -> str:
    try:
        done = subprocess.run(
            # extglob changes how patterns are parsed; scripts switch it on by a command, and -n runs none.
            [bash, "--norc", "--noprofile", "-O", "extglob", "-n"],
            input=script.data,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=_environment(),
            timeout=ONE_FILE_S,
            check=False,
        )
    except (subprocess.TimeoutExpired, OSError):
        return ""
    return done.stderr.decode("utf-8", "replace") if done.returncode != 0 else ""


def _node(node: str, sources: dict[str, str]) -> dict[str, tuple[int | None, str]] | None:
    command = [node, "--no-warnings", "--experimental-vm-modules", "-e", _NODE]
    with tempfile.TemporaryDirectory(prefix="ai-infra-") as empty:
        try:
            done = subprocess.run(
                command,
                input=json.dumps(sources).encode("utf-8", "replace"),
                capture_output=True,
                env=_environment(),
                timeout=NODE_S,
                cwd=empty,
                check=False,
            )
            answer = json.loads(done.stdout)
        except (subprocess.TimeoutExpired, OSError, ValueError):
            return None
    return {name: (line, message) for name, (line, message) in answer.items()}


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}
