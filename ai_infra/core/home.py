"""Where state lives: `$AI_INFRA_HOME` (default `~/.ai-infra`), mode 0700, ours alone."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ai_infra.core.durable import system_problem
from ai_infra.core.errors import SystemProblem

SOCKET_PATH_MAX = 107  #: bytes in a unix socket's address on Linux
ROOM_BYTES = 1_000_000  #: with less than this the disk counts as full
ROOM_FILES = 8  #: nor with fewer files than this left to make
FOLDERS = ("config", "run", "redis", "keys", "logs", "logs/tasks", "workspace", "workspace/workflows")


@dataclass(frozen=True)
class Home:
    """The folder of one installation's state, and the names inside it."""

    root: Path

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Home:
        """`AI_INFRA_HOME`, else `~/.ai-infra`. Nothing is created. Raises SystemProblem."""
        named = env.get("AI_INFRA_HOME")
        base = Path(named) if named else Path(env.get("HOME") or Path.home()) / ".ai-infra"
        try:
            path = os.path.abspath(base)
        except OSError as exc:
            raise SystemProblem(
                f"AI_INFRA_HOME={named}: the current folder is gone; say the whole path"
            ) from exc
        if not path.isprintable():
            raise SystemProblem(f"AI_INFRA_HOME={path!r}: use a path without control characters")
        return cls(Path(path))

    @property
    def config(self) -> Path:
        """Overrides of the shipped files."""
        return self.root / "config"

    @property
    def run(self) -> Path:
        """Sockets, locks, and what the last life of each process said of itself."""
        return self.root / "run"

    @property
    def logs(self) -> Path:
        """One `NAME.jsonl` per process."""
        return self.root / "logs"

    @property
    def task_logs(self) -> Path:
        """The whole output of each attempt: `TASK.ATTEMPT.log`."""
        return self.root / "logs" / "tasks"

    @property
    def archive(self) -> Path:
        """Finished tasks that Redis has forgotten."""
        return self.root / "archive"

    @property
    def redis(self) -> Path:
        """The data folder of the embedded server."""
        return self.root / "redis"

    @property
    def redis_socket(self) -> Path:
        """Where the embedded server listens; it has no other address."""
        return self.run / "redis.sock"

    @property
    def keys(self) -> Path:
        """Private keys; nobody but this user may look in."""
        return self.root / "keys"

    @property
    def workspace(self) -> Path:
        """What agents write: `.agent-scratch/AGENT/…` and `workflows/ID/`."""
        return self.root / "workspace"

    @property
    def workflows(self) -> Path:
        """A folder per workflow that its tasks share."""
        return self.workspace / "workflows"

    def scratch(self, agent: str) -> Path:
        """The scratch workspace of one agent."""
        return self.workspace / ".agent-scratch" / agent

    def is_full(self) -> bool:
        """Whether the disk has too little room for Redis to write on."""
        try:
            disk = os.statvfs(self.root)
        except OSError:
            return False
        no_names = disk.f_files > 0 and disk.f_favail < ROOM_FILES
        return no_names or disk.f_bavail * disk.f_frsize < ROOM_BYTES

    def ensure(self) -> None:
        """Create what is missing, private to the owner. Twice is safe.

        Raises SystemProblem when the folder cannot be made, belongs to somebody else, is not writable, or
        its path is too long for the sockets in it.
        """
        if len(os.fsencode(self.run / "redis.sock")) > SOCKET_PATH_MAX:
            raise SystemProblem(
                f"{self.root}: the path is too long for unix sockets ({SOCKET_PATH_MAX} bytes with "
                "'run/redis.sock'); set AI_INFRA_HOME to a shorter one"
            )
        try:
            if self.root.exists() and not self.root.is_dir():
                raise SystemProblem(f"{self.root}: is not a folder; set AI_INFRA_HOME to one")
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_owner()
            for folder in FOLDERS:
                (self.root / folder).mkdir(mode=0o700, exist_ok=True)
        except OSError as exc:
            raise system_problem(Path(exc.filename or self.root), exc) from exc
        if not os.access(self.run, os.W_OK):
            raise SystemProblem(f"{self.run}: not writable; set AI_INFRA_HOME to a folder that is")

    def _check_owner(self) -> None:
        found = self.root.stat()
        if found.st_uid != os.geteuid():
            raise SystemProblem(
                f"{self.root}: belongs to another user; set AI_INFRA_HOME to a folder of yours"
            )
        if stat.S_IMODE(found.st_mode) != 0o700:
            self.root.chmod(0o700)
