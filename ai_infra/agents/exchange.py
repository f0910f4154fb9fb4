"""Exchange: the files by which the commands of a task hear of its upstreams and hand in a value.

`AI_INFRA_INPUTS` names a JSON file: of each upstream its state, exit_code, output (the end of it), skipped
and result. At `AI_INFRA_RESULT` a command may leave any JSON value: the task's result, for what needs it.
Commands that undo a step find at `AI_INFRA_UNDO_RESULT` its id, its state, and its result as `task show
--json` has it.
All are there for one attempt: what an earlier one handed in does not count.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai_infra.core.durable import system_problem
from ai_infra.tasks.spec import dump_json
from ai_infra.tasks.task import MAX_VALUE_BYTES

MAX_FILE_BYTES = 1_000_000  #: of the file; what counts is the value without white space
MAX_DEPTH = 100


@dataclass(frozen=True, kw_only=True)
class Handed:
    """What the commands handed in."""

    given: bool = False  #: whether there is a good value
    value: Any = None
    problem: str = ""  #: why it is no good


class Exchange:
    """The folder of one attempt."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.inputs, self.result = folder / "inputs.json", folder / "result.json"
        self.undone = folder / "undone.json"

    def open(self, inputs: Mapping[str, Any] | None, undone: Mapping[str, Any] | None = None) -> None:
        """Make the folder, empty but for what there is to hear. Raises SystemProblem."""
        try:
            _clear(self._folder.parent)  # also what an agent left that was killed
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if inputs is not None:
                self.inputs.write_text(json.dumps(_whole(inputs)) + "\n", encoding="utf-8")
            if undone is not None:
                self.undone.write_text(json.dumps(undone) + "\n", encoding="utf-8")
        except OSError as exc:
            raise system_problem(self._folder, exc) from exc

    def read(self) -> Handed:
        """The value at AI_INFRA_RESULT. Whatever stands there, never raises."""
        try:
            return _checked(_read(self.result))
        except FileNotFoundError:
            return Handed()
        except RecursionError:
            return Handed(problem=f"nested deeper than {MAX_DEPTH}")
        except OSError as exc:
            return Handed(problem=f"cannot be read: {exc.strerror}")
        except json.JSONDecodeError as exc:
            return Handed(problem=f"not JSON: {exc}")
        except UnicodeError as exc:
            return Handed(problem=f"not UTF-8 text: {exc}"[:200])
        except ValueError as exc:
            return Handed(problem=str(exc)[:200])

    def close(self) -> None:
        """Remove the folder. Twice is safe."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _clear(folder: Path) -> None:
    """Remove a folder, or what a task has put in its place."""
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)
    else:
        folder.unlink(missing_ok=True)


def _whole(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """With a `result` everywhere: null where none was handed in."""
    return {
        name: {"result": None, **entry}
        if isinstance(entry, Mapping)
        else [{"result": None, **each} for each in entry]
        for name, entry in inputs.items()
    }


def _read(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("not a plain file")
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"larger than {MAX_FILE_BYTES} bytes; write it to a file and hand in its path")
    return data


def _checked(data: bytes) -> Handed:
    if not data.strip():
        return Handed(problem="the file is empty; write JSON, or nothing")
    value = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    if _depth(value) > MAX_DEPTH:
        return Handed(problem=f"nested deeper than {MAX_DEPTH}")
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode(
        "utf-8"
    )  # half a letter cannot be handed on
    size = len(dump_json(value))
    if size > MAX_VALUE_BYTES:
        return Handed(
            problem=f"{size} bytes as JSON in ASCII, more than {MAX_VALUE_BYTES}; "
            "write it to a file in $AI_INFRA_WORKFLOW_DIR and hand in its path"
        )
    return Handed(given=True, value=value)


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _depth(value: Any) -> int:
    """How deep lists and objects are nested; counted level by level, without recursion."""
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return depth
