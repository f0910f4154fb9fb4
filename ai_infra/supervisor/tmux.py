"""The one door to tmux.

Every call is one `tmux` process with a deadline and explicit formats. Targets are ids, never names; options
are set on our session and windows only, never globally; the server is never killed. What tmux cannot tell
is Unknown, which is not Absent: nobody restarts or deletes anything on it.

libtmux is not used here: it forks once per attribute and has no deadline; one `list-panes` tells all.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ai_infra.core import ids
from ai_infra.core.errors import ConnectorError, ConnectorUnavailable, SystemProblem
from ai_infra.core.settings import TmuxSettings
from ai_infra.supervisor.environment import client_env
from ai_infra.supervisor.spec import SessionSpec, WindowSpec

CALL_TIMEOUT_S = 5.0  #: a tmux server that does not answer in this time is Unknown
CREATE_TIMEOUT_S = 30.0  #: the first call of a new server runs the user's tmux.conf
OLDEST = (3, 2)
#: a plain printable separator: in a C locale tmux prints a tab as "_"
_SEP = "|"
_FIELDS = (
    "session_id",
    "window_id",
    "pane_id",
    "pane_pid",
    "pane_dead",
    "pane_dead_status",
    "pane_dead_signal",
    "@ai_infra",
    "@ai_infra_window",
    "session_name",
    "@ai_infra_home",  # last: a path may hold the separator
)
_FORMAT = _SEP.join("#{" + field + "}" for field in _FIELDS)
_NOBODY = re.compile(
    r"no server running|no current target|"
    r"error connecting to .*\((No such file or directory|Connection refused)\)"
)
_NO_SESSION = re.compile("can't find session|server exited|lost server")  #: it went while we asked, too


@dataclass(frozen=True, kw_only=True)
class Pane:
    """One pane of ours, as tmux sees it."""

    window: ids.WindowName
    window_id: str
    pane_id: str
    pid: int
    dead: bool
    exit_status: int | None  #: None where tmux does not know (measured: for a third of dead panes)
    exit_signal: int | None


@dataclass(frozen=True, kw_only=True)
class Present:
    """Our session exists; `panes` has the first pane of each of our windows."""

    session_id: str
    home: str  #: the installation that made it; empty when tmuxp did
    panes: Mapping[ids.WindowName, Pane]


@dataclass(frozen=True)
class Absent:
    """The server said that there is no such session, or there is no server."""


@dataclass(frozen=True)
class Foreign:
    """A session of that name exists and is not ours."""

    session_id: str


@dataclass(frozen=True)
class Unknown:
    """tmux did not answer; nothing follows from it."""

    reason: str


Sight = Present | Absent | Foreign | Unknown


class Tmux:
    """One tmux server, and the session of ours on it."""

    def __init__(self, settings: TmuxSettings, home: Path) -> None:
        self._settings, self._home = settings, home
        self._argv = ["tmux", *_server_args(settings.socket)]
        self._told: tuple[str, str] | None = None

    @property
    def session(self) -> str:
        """The session's name."""
        return self._settings.session

    def attach_argv(
        self, session_id: str, window_id: str | None = None, *, inside: bool = False
    ) -> list[str]:
        """The command that shows the session to a person; `inside`: who sits in a pane of the same server."""
        select = ["select-window", "-t", window_id, ";"] if window_id else []
        verb = "switch-client" if inside else "attach-session"
        return [*self._argv, *select, verb, "-t", session_id]

    async def look(self) -> Sight:
        """Ask once for everything. Never raises."""
        try:
            code, out, err = await self._call("list-panes", "-a", "-F", _FORMAT)
        except (ConnectorUnavailable, SystemProblem) as exc:
            return Unknown(str(exc))
        if code != 0:
            return Absent() if _NOBODY.search(err) else Unknown(err.strip() or f"tmux exit code {code}")
        return sight_of(out, self.session, self._home)

    async def create(self, spec: SessionSpec) -> str:
        """Make the session with one empty window; returns its id.

        One call, so that no option of the user's ends the session before ours are set. Raises ConnectorError,
        for a session of that name, too.
        """
        name = f"={spec.name}:"
        size = ["-x", str(self._settings.width), "-y", str(self._settings.height)]
        options = {
            **spec.options,
            "destroy-unattached": "off",
            "base-index": "0",
            "renumber-windows": "off",
            "status-left-length": str(len(spec.name) + 4),
            "update-environment": "",
            "@ai_infra_home": str(self._home),
        }
        first = [
            "new-session",
            "-d",
            "-P",
            "-F",
            "#{session_id}",
            *size,
            "-s",
            spec.name,
            "-n",
            "empty",
            *_EMPTY,
        ]
        calls = [
            first,
            ["set-option", "-w", "-t", name, "remain-on-exit", "on"],
            *[["set-option", "-t", name, option, value] for option, value in options.items()],
            # Window 0 must be free for the supervisor whatever base-index the user has.
            ["move-window", "-s", name, "-t", f"{name}{_SPARE_INDEX}"],
        ]
        try:
            return (await self._chain(calls, timeout_s=CREATE_TIMEOUT_S)).split()[0]
        except ConnectorError as exc:
            if "duplicate session" not in str(exc):  # what stands half made is ours
                await self._call("kill-session", "-t", name)
            raise

    async def adopt(self, session_id: str) -> None:
        """Mark a session that tmuxp made from our file as this installation's."""
        await self._chain([["set-option", "-t", session_id, "@ai_infra_home", str(self._home)]])

    async def socket_path(self, session_id: str) -> str:
        """Where the server listens; with it, the server is found whatever TMUX_TMPDIR says."""
        return (await self._ok("display-message", "-p", "-t", session_id, "#{socket_path}")).strip()

    async def add_window(self, session_id: str, window: WindowSpec) -> Pane:
        """Make an empty window with its options set; the process comes by respawn()."""
        form = f"#{{window_id}}{_SEP}#{{pane_id}}{_SEP}#{{pane_pid}}"
        try:
            made = await self._new_window(window, f"{session_id}:{window.index}", form)
        except ConnectorError as exc:
            if "in use" not in str(exc):
                raise
            taken = [int(i) for i in (await self._ok("list-windows", "-t", session_id, "-F", "#I")).split()]
            made = await self._new_window(
                window, f"{session_id}:{max(taken) + 1}", form
            )  # a person's is there
        window_id, pane_id, pid = made.strip().split(_SEP)
        return Pane(window=window.name, window_id=window_id, pane_id=pane_id, pid=int(pid), dead=True,
                    exit_status=None, exit_signal=None)  # fmt: skip

    async def _new_window(self, window: WindowSpec, place: str, form: str) -> str:
        """In one call, so that who is killed in the middle leaves no window without its mark."""
        first = ["new-window", "-d", "-P", "-F", form, "-n", window.name, "-t", place, *_EMPTY]
        options = [["set-option", "-w", "-t", place, n, v] for n, v in window.options.items()]
        return await self._chain([first, *options])

    async def respawn(self, pane: Pane, argv: Sequence[str], env: Mapping[str, str], cwd: Path) -> None:
        """Put a process into a pane, in place of whatever is there.

        It gets exactly `env` and what tmux itself must tell it: `env -i` keeps out what the server was
        started with (a user's keys, for one). No value of it is secret: argv is public for a moment.
        """
        tmux, term = await self._told_to_panes(pane)
        pairs = {**env, "TMUX": tmux, "TMUX_PANE": pane.pane_id, "TERM": term}
        words = [f"{name}={value}" for name, value in pairs.items()]
        await self._chain(
            [
                ["set-option", "-w", "-t", pane.window_id, "remain-on-exit", "on"],
                [
                    "respawn-pane",
                    "-k",
                    "-c",
                    str(cwd).replace("#", "##"),
                    "-t",
                    pane.pane_id,
                    "env",
                    "-i",
                    *words,
                    *argv,
                ],
            ]
        )

    async def _told_to_panes(self, pane: Pane) -> tuple[str, str]:
        """What tmux itself puts into TMUX and TERM of a pane; the same for all panes of the session."""
        if self._told is None:
            form = "#{socket_path},#{pid},#{s/[$]//:session_id}" + _SEP + "#{default-terminal}"
            tmux, term = (
                (await self._ok("display-message", "-p", "-t", pane.pane_id, form)).strip().split(_SEP)
            )
            self._told = tmux, term
        return self._told

    async def drop_spare(self, session_id: str) -> None:
        """Remove the empty window that create() made, and show the first of ours. Twice is safe."""
        code, _, _ = await self._call("kill-window", "-t", f"{session_id}:{_SPARE_INDEX}")
        if code == 0:
            await self._ok("select-window", "-t", f"{session_id}:^")

    async def kill_session(self, session_id: str) -> None:
        """End our session; the server stays if it has others. Twice is safe."""
        code, _, err = await self._call("kill-session", "-t", session_id)
        if code != 0 and not _NO_SESSION.search(err) and not _NOBODY.search(err):
            raise ConnectorError(f"tmux kill-session: {err.strip()}")

    async def capture(self, pane: Pane, lines: int) -> str:
        """The last lines that a pane shows, as text without escapes."""
        shown = await self._ok("capture-pane", "-p", "-J", "-S", "-50", "-t", pane.pane_id)
        kept = [line.rstrip() for line in shown.splitlines() if line.strip()]
        return "\n".join(kept[-lines:])

    async def set_status(self, session_id: str, text: str) -> None:
        """What stands at the right of the session's status line. tmux formats in `text` are data."""
        plain = text.replace("#", "##").replace("%", "%%")
        await self._chain(
            [
                ["set-option", "-t", session_id, "status-right-length", "80"],
                ["set-option", "-t", session_id, "status-right", plain],
            ]
        )

    async def _chain(self, commands: Sequence[Sequence[str]], timeout_s: float | None = None) -> str:
        """Several commands in one tmux call, in order; what they print."""
        words: list[str] = []
        for command in commands:
            words += [*(_literal(word) for word in command), ";"]
        return await self._ok(*words[:-1], timeout_s=timeout_s) if words else ""

    async def _ok(self, *args: str, timeout_s: float | None = None) -> str:
        code, out, err = await self._call(*args, timeout_s=timeout_s)
        if code != 0:
            raise ConnectorError(f"tmux {args[0]}: {err.strip() or f'exit code {code}'}")
        return out

    async def _call(self, *args: str, timeout_s: float | None = None) -> tuple[int, str, str]:
        # Files in memory, not pipes: the server gets a copy of a pipe, and a hung one would keep it open.
        with _memory("out") as out, _memory("err") as err:
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._argv,
                    *args,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    env=client_env(os.environ),
                )
            except FileNotFoundError as exc:
                raise SystemProblem("tmux is not installed; `apt-get install tmux` adds it") from exc
            except OSError as exc:  # no process, no memory, no descriptor left: it says nothing about tmux
                raise ConnectorUnavailable(f"tmux cannot be asked: {exc.strerror}") from exc
            limit_s = timeout_s or CALL_TIMEOUT_S
            try:
                async with asyncio.timeout(limit_s):
                    code = await process.wait()
            except BaseException as exc:
                process.kill()
                await process.wait()
                if isinstance(exc, TimeoutError):
                    words = f"tmux {args[0]} gave no answer within {limit_s:g} s"
                    raise ConnectorUnavailable(words) from exc
                raise
            return code, _text(out), _text(err)


_SPARE_INDEX = 9999  #: where the window waits that new-session cannot do without
#: what a window runs between its making and its respawn: nothing, so that whoever finds it starts its process
_EMPTY = ("true",)


def sight_of(listing: str, session: str, home: Path) -> Sight:
    """What one `list-panes -a` says about our session. Pure.

    Ours is the one that bears our mark, whatever a person renamed it to; else the one of our name.
    """
    split = [line.split(_SEP, len(_FIELDS) - 1) for line in listing.splitlines()]
    rows = [dict(zip(_FIELDS, row, strict=True)) for row in split if len(row) == len(_FIELDS)]
    ours = [r for r in rows if r["@ai_infra_home"] == str(home)] or [
        r for r in rows if r["session_name"] == session
    ]
    if not ours:
        return Absent()
    first = ours[0]
    if not first["@ai_infra"]:
        return Foreign(first["session_id"])
    panes: dict[ids.WindowName, Pane] = {}
    for row in ours:
        if row["@ai_infra_window"] and row["session_id"] == first["session_id"]:
            with contextlib.suppress(ValueError):
                pane = _pane(row)
                # A person may have split ours, also before it: ours was there first, so its id is lower.
                if pane.window not in panes or _age(pane) < _age(panes[pane.window]):
                    panes[pane.window] = pane
    return Present(session_id=first["session_id"], home=first["@ai_infra_home"], panes=panes)


def _age(pane: Pane) -> int:
    return int(pane.pane_id.removeprefix("%"))


def _pane(field: Mapping[str, str]) -> Pane:
    return Pane(
        window=ids.WindowName(field["@ai_infra_window"]),
        window_id=field["window_id"],
        pane_id=field["pane_id"],
        pid=int(field["pane_pid"]),
        dead=field["pane_dead"] == "1",
        exit_status=int(field["pane_dead_status"]) if field["pane_dead_status"] else None,
        exit_signal=int(field["pane_dead_signal"]) if field["pane_dead_signal"] else None,
    )


def tmux_version() -> tuple[int, int]:
    """The installed tmux. Raises SystemProblem when there is none, or it is older than OLDEST."""
    try:
        told = subprocess.run(["tmux", "-V"], capture_output=True, text=True, timeout=CALL_TIMEOUT_S).stdout
    except FileNotFoundError as exc:
        raise SystemProblem("tmux is not installed; `apt-get install tmux` adds it") from exc
    except OSError as exc:
        raise SystemProblem(f"tmux cannot be run: {exc.strerror}") from exc
    except subprocess.TimeoutExpired as exc:
        raise SystemProblem(f"`tmux -V` gave no answer within {CALL_TIMEOUT_S:g} s") from exc
    found = re.search(r"(\d+)\.(\d+)", told)
    version = (int(found[1]), int(found[2])) if found else OLDEST  # "tmux master" is newer
    if version < OLDEST:
        raise SystemProblem(
            f"{told.strip()} is too old; ai-infra needs tmux {OLDEST[0]}.{OLDEST[1]} or later"
        )
    return version


def _memory(name: str) -> IO[bytes]:
    return open(os.memfd_create(name), "r+b")


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _server_args(socket: str) -> list[str]:
    if socket == "default":
        return []
    return ["-S", socket] if "/" in socket else ["-L", socket]


def _literal(word: str) -> str:
    """tmux takes a trailing `;` of an argument as its own separator."""
    return word[:-1] + "\\;" if word.endswith(";") else word
