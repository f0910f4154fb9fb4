"""`doctor`: what this machine and installation have and lack, and what to do about it. Changes nothing."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ai_infra.app.command import engine_now, find_tmux, program, settings_from_env
from ai_infra.core.durable import is_locked
from ai_infra.core.errors import AiInfraError, NotRunning
from ai_infra.core.orphans import find_orphans
from ai_infra.core.process import ProcessState
from ai_infra.core.settings import Settings
from ai_infra.supervisor.ledger import read_ledger
from ai_infra.supervisor.spec import load_session
from ai_infra.supervisor.tmux import Absent, Foreign, Present, tmux_version

LOW_DISK_BYTES = 1_000_000_000
PROGRAMS = {"git": "git", "bash": "bash"}


class Mark(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"  #: works, but look at it
    FAIL = "fail"  #: something will not work


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One check."""

    mark: Mark
    what: str
    found: str
    do: str = ""  #: what to do about it


async def examine() -> list[Finding]:
    """Run every check; one that fails does not hide the next."""
    try:
        settings = settings_from_env()
        spec = load_session(settings)
    except AiInfraError as exc:
        return [*_programs(), _finding(Mark.FAIL, "settings", str(exc), "correct the file")]
    rows = [
        *_programs(),
        _finding(Mark.OK, "settings", f"{len(spec.windows)} windows, {len(settings.agents)} agents"),
    ]
    rows += [_redis_server(settings), _home(settings), _disk(settings), _path()]
    for check in (_session, _redis, _keys):
        rows.append(await _safely(check, settings))
    return [*rows, *_windows(settings), *_leftovers(settings)]


async def _safely(check: Callable[[Settings], Awaitable[Finding]], settings: Settings) -> Finding:
    try:
        return await check(settings)
    except AiInfraError as exc:
        return _finding(Mark.FAIL, check.__name__.strip("_"), str(exc))


def _finding(mark: Mark, what: str, found: str, do: str = "") -> Finding:
    return Finding(mark=mark, what=what, found=found, do=do)


def _programs() -> list[Finding]:
    python = ".".join(str(part) for part in sys.version_info[:3])
    rows = [_finding(Mark.OK, "python", f"{python} in {sys.prefix}")]
    try:
        major, minor = tmux_version()
        rows.append(_finding(Mark.OK, "tmux", f"{major}.{minor}"))
    except AiInfraError as exc:
        rows.append(_finding(Mark.FAIL, "tmux", str(exc)))
    for name, package in PROGRAMS.items():
        where = shutil.which(name)
        do = "" if where else f"`apt-get install {package}`"
        rows.append(_finding(Mark.OK if where else Mark.FAIL, name, where or "not installed", do))
    return rows


def _redis_server(settings: Settings) -> Finding:
    from ai_infra.connectors.embedded_redis import find_server

    if not settings.embedded_redis:
        return _finding(Mark.OK, "redis-server", "not needed: redis.url names a server of yours")
    try:
        return _finding(Mark.OK, "redis-server", find_server())
    except AiInfraError as exc:
        return _finding(Mark.FAIL, "redis-server", str(exc))


def _home(settings: Settings) -> Finding:
    root = settings.home.root
    if not root.exists():
        return _finding(Mark.OK, "state", f"{root} (made by the first `ai-infra up`)")
    mode = stat.S_IMODE(root.stat().st_mode)
    if root.stat().st_uid != os.geteuid():
        return _finding(
            Mark.FAIL, "state", f"{root} belongs to another user", "set AI_INFRA_HOME to a folder of yours"
        )
    if mode & 0o077:
        return _finding(
            Mark.FAIL, "state", f"{root} is open to others (mode {mode:04o})", f"`chmod 700 {root}`"
        )
    if not os.access(root, os.W_OK):
        return _finding(Mark.FAIL, "state", f"{root} is not writable", "is its file system read-only?")
    return _finding(Mark.OK, "state", f"{root}, mode {mode:04o}")


def _disk(settings: Settings) -> Finding:
    place = next(p for p in (settings.home.root, *settings.home.root.parents) if p.exists())
    free = shutil.disk_usage(place).free
    words = f"{free / 1e9:.1f} GB free at {place}"
    return (
        _finding(Mark.OK, "disk", words)
        if free > LOW_DISK_BYTES
        else _finding(Mark.WARN, "disk", words, "free some")
    )


def _path() -> Finding:
    found = shutil.which("ai-infra")
    if found is None:
        return _finding(
            Mark.WARN, "PATH", "`ai-infra` is not in it", f"add the folder of a link to {program()}"
        )
    if Path(found).resolve() != program().resolve():
        return _finding(
            Mark.WARN, "PATH", f"{found} is another installation than {program()}", "remove one of them"
        )
    return _finding(Mark.OK, "PATH", found)


async def _session(settings: Settings) -> Finding:
    sight = await (await find_tmux(settings)).look()
    wanted = read_ledger(settings.home).wanted
    name = settings.tmux.session
    match sight:
        case Present(home=home) if home == str(settings.home.root):
            return _finding(Mark.OK, "session", f"{name} is up with {len(sight.panes)} windows")
        case Present(home=home):
            return _finding(
                Mark.FAIL, "session", f"{name} belongs to AI_INFRA_HOME={home}", "set tmux.session"
            )
        case Absent() if wanted:
            return _finding(Mark.FAIL, "session", f"{name} should be up and is not", "`ai-infra up`")
        case Absent():
            return _finding(Mark.OK, "session", f"{name} is not up")
        case Foreign():
            return _finding(
                Mark.FAIL, "session", f"{name} exists and was not made by ai-infra", "set tmux.session"
            )
    return _finding(Mark.WARN, "session", f"tmux is unclear: {sight.reason}")


async def _keys(settings: Settings) -> Finding:
    from ai_infra.messages.keys import check_keys

    return _finding(Mark.OK, "keys", check_keys(settings.home))


async def _redis(settings: Settings) -> Finding:
    try:
        async with engine_now(settings, wait_s=2.0) as engine:
            facts = engine.connection.facts
    except NotRunning as exc:
        wanted = read_ledger(settings.home).wanted or not settings.embedded_redis
        return _finding(Mark.FAIL if wanted else Mark.OK, "redis", str(exc))
    words = f"version {facts.version}, append-only file with fsync {facts.durability}"
    if facts.durability == "always":
        return _finding(Mark.OK, "redis", words)
    do = "`appendonly yes` and `appendfsync always` there make every acknowledged task survive"
    return _finding(Mark.WARN, "redis", words, do)


def _windows(settings: Settings) -> list[Finding]:
    rows = []
    for name, record in read_ledger(settings.home).windows.items():
        if record.state in (ProcessState.FATAL, ProcessState.STOPPED):
            rows.append(
                _finding(Mark.FAIL, name, f"{record.state}: {record.last_exit}", f"`ai-infra restart {name}`")
            )
        elif record.state is ProcessState.BACKOFF:
            rows.append(_finding(Mark.WARN, name, f"died and will be started again: {record.last_exit}"))
    return rows


def _leftovers(settings: Settings) -> list[Finding]:
    if read_ledger(settings.home).wanted or is_locked(settings.home.run / "up.lock"):
        return []
    found = find_orphans(settings.home)
    pids = ", ".join(str(pid) for pid in found)
    return (
        [_finding(Mark.WARN, "leftovers", f"commands of tasks still run: pid {pids}", "`ai-infra down`")]
        if found
        else []
    )
