"""Results: what travels with an outcome: codes, times, checks and the end of the output, never too large."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ai_infra.agents.checks import Checked
from ai_infra.agents.commands import CommandEnd
from ai_infra.agents.output import OutputLog
from ai_infra.tasks.spec import dump_json
from ai_infra.tasks.task import MAX_RESULT_BYTES

TAIL_CHARS = 4000
CHECK_CHARS = 500
MAX_CHECKS = 50
MAX_CODES = 4000  #: the first ones, in the order of the commands
_SHARES = (1, 2, 8, 64)  #: what is cut to an nth until it fits: texts and times, the codes not


def result_of(
    ends: Sequence[CommandEnd], checks: Sequence[Checked], output: OutputLog, took_s: float
) -> dict[str, Any]:
    """As much as MAX_RESULT_BYTES holds; `cut` is in it when something was left out for that."""
    for share in _SHARES:
        result = _result(ends, checks, output, share) | {"duration_s": round(took_s, 3)}
        if share > 1 or len(ends) > MAX_CODES:
            result["cut"] = True
        if len(dump_json(result)) <= MAX_RESULT_BYTES:
            break
    return result


def _result(
    ends: Sequence[CommandEnd], checks: Sequence[Checked], output: OutputLog, share: int
) -> dict[str, Any]:
    chars = CHECK_CHARS // share
    result = {
        "exit_codes": [end.exit_code for end in ends[:MAX_CODES]],
        "durations_s": [round(end.duration_s, 3) for end in ends[: MAX_CODES // share]],
        "checks": [
            {"what": c.what[:chars], "ok": c.ok, "evidence": c.evidence[:chars]} for c in checks[:MAX_CHECKS]
        ],
        "output_tail": output.tail()[-(TAIL_CHARS // share) :],
        "output_bytes": output.total_bytes,
        "log": str(output.path),
    }
    return {**result, "log_problem": output.problem} if output.problem else result
