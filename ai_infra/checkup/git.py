"""Git, read only: every call to it in the check-up goes through here.

The repository is not trusted: no hook, pager, fsmonitor, filter, text converter, signature program or
network transport that it configures is started, and the user's and the system's git settings do not change
the answers. Names are passed with -z and decoded like file names, so any byte survives.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ai_infra.checkup.findings import plain, shown
from ai_infra.core.errors import NotFound, SystemProblem

CALL_TIMEOUT_S = 120.0
_SAFE = (
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.pager=cat",
    "core.quotePath=false",
    "color.ui=false",
    "diff.external=",
    "i18n.logOutputEncoding=UTF-8",
    "log.showSignature=false",
    "protocol.allow=never",
    "safe.directory=*",
    "submodule.recurse=false",
)
_KEPT_ENVIRONMENT = ("PATH", "HOME", "TMPDIR")


class NotARepository(NotFound):
    """The folder is not in a git repository."""


class GitFailed(SystemProblem):
    """Git could not answer: damaged data, no rights, or too slow."""


@dataclass(frozen=True, kw_only=True)
class Repo:
    """An opened repository."""

    top: Path  #: root of the working tree; the git directory itself when bare
    common_dir: Path  #: where the objects are; worktrees share it
    given: Path  #: what the person named; may be a folder inside
    bare: bool
    shallow: bool
    head: str | None  #: commit; None before the first one
    branch: str | None  #: None when HEAD is detached

    @property
    def name(self) -> str:
        """A short printable name."""
        return (
            shown((self.top.parent if self.top.name == ".git" else self.top).name).removesuffix(".git") or "/"
        )

    @property
    def label(self) -> str:
        """`/path (main at 1a2b3c4d)`, printable."""
        where = self.branch or "detached HEAD"
        return f"{shown(str(self.top))} ({shown(where)} at {self.head[:10] if self.head else 'no commit'})"

    def git(self, *args: str, ok: Sequence[int] = (0,), data: bytes | None = None) -> bytes:
        """The output of one git command. Raises GitFailed for an exit code not in `ok`."""
        return run_git(self.top, *args, ok=ok, data=data, more=self._no_filters)

    def stream(self, *args: str, timeout_s: float, separator: bytes = b"\0") -> Iterator[bytes]:
        """The records of a long output, one by one; ends early, without an error, after `timeout_s` seconds.

        Closing the iterator ends git. Raises GitFailed when git itself failed.
        """
        return _stream(self.top, args, self._no_filters, timeout_s, separator)

    def start(self, *args: str) -> subprocess.Popen[bytes]:
        """A git process to talk with over its pipes; the caller ends it."""
        command, env, pipe = [*_command(self.top), *args], environment() | self._no_filters, subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=env)

    @cached_property
    def _no_filters(self) -> dict[str, str]:
        """Settings that switch off the programs this repository's own configuration names for its files."""
        listed = run_git(self.top, "config", "--list", "--name-only", "-z", ok=(0, 1))
        off: dict[str, str] = {}
        for key in {os.fsdecode(name) for name in listed.split(b"\0") if name}:
            section, _, last = key.rpartition(".")
            if section.startswith("filter.") and last in ("clean", "smudge", "process"):
                off |= {key: "", f"{section}.required": "false"}
            elif section.startswith("diff.") and last in ("textconv", "command"):
                off[key] = ""
        # By environment, not by -c: a section name may hold an equals sign.
        settings = {"GIT_CONFIG_COUNT": str(len(off))}
        for number, (key, value) in enumerate(off.items()):
            settings |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
        return settings


def open_repo(path: Path) -> Repo:
    """The repository `path` is, or is inside of.

    Raises NotARepository, GitFailed or SystemProblem (no git).
    """
    given = path.expanduser().absolute()
    if not given.is_dir():
        what = "is not a folder" if os.path.exists(given) else "does not exist"
        raise NotARepository(f"{shown(str(path))}: {what}; give the path of a git repository")
    if not os.access(given, os.R_OK | os.X_OK):
        raise SystemProblem(
            f"{shown(str(path))}: permission denied; it must be readable by the user who runs this"
        )
    start = given.parent if given.name == ".git" and (given.parent / ".git").is_dir() else given
    bare, git_dir, common, shallow = _ask(
        start, "--is-bare-repository", "--absolute-git-dir", "--git-common-dir", "--is-shallow-repository"
    )
    top = git_dir if bare == "true" else _ask(start, "--show-toplevel")[0]
    head = run_git(start, "rev-parse", "--verify", "--quiet", "HEAD^{commit}", ok=(0, 1, 128))
    branch = run_git(start, "symbolic-ref", "--quiet", "--short", "HEAD", ok=(0, 1, 128))
    return Repo(
        top=Path(top),
        common_dir=start / common,  # relative to where it was asked, or absolute
        given=given,
        bare=bare == "true",
        shallow=shallow == "true",
        head=head.decode().strip() or None,
        branch=os.fsdecode(branch).strip() or None,
    )


def run_git(
    folder: Path,
    *args: str,
    ok: Sequence[int] = (0,),
    data: bytes | None = None,
    timeout_s: float = CALL_TIMEOUT_S,
    more: Mapping[str, str] | None = None,
) -> bytes:
    """The output of one git command in `folder`.

    Raises GitFailed, or SystemProblem when git is not installed.
    """
    try:
        done = subprocess.run(
            [*_command(folder), *args],
            input=data,
            stdin=subprocess.DEVNULL if data is None else None,
            capture_output=True,
            env=environment() | dict(more or {}),
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise GitFailed(f"git {_verb(args)} in {shown(str(folder))}: no answer in {timeout_s:.0f} s") from exc
    except OSError as exc:
        raise SystemProblem(f"{shown(str(folder))}: git could not be started: {exc.strerror}") from exc
    if done.returncode not in ok:
        raise GitFailed(f"git {_verb(args)} in {shown(str(folder))}: {_reason(done.stderr)}")
    return done.stdout


def environment() -> dict[str, str]:
    """The environment of every git process: the caller's settings stay out, nothing can ask a question."""
    kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    return kept | {
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
    }


def _ask(folder: Path, *questions: str) -> list[str]:
    try:
        return os.fsdecode(run_git(folder, "rev-parse", *questions)).removesuffix("\n").split("\n")
    except GitFailed as exc:
        if "not a git repository" in str(exc):
            raise NotARepository(
                f"{shown(str(folder))}: not a git repository (nor a folder inside one)"
            ) from exc
        raise


def _command(folder: Path) -> list[str]:
    git = shutil.which("git")
    if git is None:
        raise SystemProblem("git is not installed; install the package `git`")
    return [git, "--no-pager", *(word for setting in _SAFE for word in ("-c", setting)), "-C", str(folder)]


def _stream(
    folder: Path, args: Sequence[str], more: Mapping[str, str], timeout_s: float, separator: bytes
) -> Iterator[bytes]:
    command, env, pipe = [*_command(folder), *args], environment() | dict(more), subprocess.PIPE
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=env) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        cut = threading.Event()
        timer = threading.Timer(timeout_s, _stop, (process, cut))
        timer.daemon = True
        timer.start()
        try:
            rest = b""
            while block := os.read(process.stdout.fileno(), 1 << 18):
                *records, rest = (rest + block).split(separator)
                yield from records
            if rest and not cut.is_set():
                yield rest
            if process.wait() != 0 and not cut.is_set():
                reason = _reason(process.stderr.read())
                raise GitFailed(f"git {_verb(args)} in {shown(str(folder))}: {reason}")
        finally:
            timer.cancel()
            process.kill()


def _stop(process: subprocess.Popen[bytes], cut: threading.Event) -> None:
    cut.set()
    process.kill()


def _verb(args: Sequence[str]) -> str:
    known = {"config", "rev-parse", "symbolic-ref", "ls-files", "ls-tree", "log", "status", "cat-file"}
    return next((arg for arg in args if arg in known), args[-1] if args else "")


def _reason(stderr: bytes) -> str:
    lines = stderr.decode(errors="replace").strip().splitlines()
    return (
        plain(lines[-1].removeprefix("fatal: ").removeprefix("error: ")) if lines else "failed without a word"
    )
