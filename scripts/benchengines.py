"""The engines that are compared: where each lives, how its worker starts, and one of them at work.

A peer is installed into a virtual environment of its own, by pip, when it is first asked for: their needs
contradict each other (arq wants an older redis-py), and the project depends on none of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from benchinstallation import eventually, undisturbed
from benchlib import BenchError, say
from benchprocess import cpu_s
from benchserver import Server

PEERS = Path(__file__).parent / "peers"
INSTALL_S = 600.0
ANSWER_S = 180.0
START_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Engine:
    """One of them."""

    name: str
    module: str  #: in peers/
    packages: tuple[str, ...] = ()  #: none: it runs in the environment of this benchmark
    worker: tuple[str, ...] = ()  #: a command of its environment; none: the module itself
    env: Mapping[str, str] = field(default_factory=dict)  #: of all its processes
    tasks: int = 1000  #: no-ops that it drains; enough for some seconds
    graphs: bool = False  #: it knows dependencies
    is_floor: bool = False  #: no engine, but what one is built of


OURS = Engine(name="ours", module="ours_peer", tasks=5000, graphs=True)
LUA = Engine(name="lua loop", module="lua_wire_peer", tasks=10_000, is_floor=True)
ENGINES = (
    OURS,
    LUA,
    Engine(
        name="lua loop by redis-py", module="lua_redispy_peer", packages=("redis", "hiredis"),
        tasks=10_000, is_floor=True,
    ),
    Engine(
        name="celery", module="celery_peer", packages=("celery", "redis", "hiredis", "packaging"),
        worker=(
            "celery", "-A", "celery_peer", "worker", "-c", "1", "-P", "solo", "-l", "ERROR",
            "--without-gossip", "--without-mingle", "--without-heartbeat",
        ),
    ),
    Engine(
        name="dramatiq", module="dramatiq_peer", packages=("dramatiq", "redis", "hiredis"), tasks=5000,
        worker=("dramatiq", "dramatiq_peer", "--processes", "1", "--threads", "1"),
        env={"dramatiq_queue_prefetch": "100"},  # with the two of its default it sleeps between tasks
    ),
    Engine(
        name="rq", module="rq_peer", packages=("rq", "hiredis"), graphs=True,
        worker=("rq", "worker", "-q", "-w", "rq.SimpleWorker", "-u", "unix://{socket}", "bench"),
    ),
    Engine(
        name="arq", module="arq_peer", packages=("arq", "hiredis"),
        worker=("arq", "arq_peer.WorkerSettings"),
    ),
    Engine(
        name="taskiq", module="taskiq_peer", packages=("taskiq", "taskiq-redis", "hiredis"),
        worker=("taskiq", "worker", "taskiq_peer:broker", "--workers", "1", "--log-level", "ERROR"),
    ),
    Engine(
        name="saq", module="saq_peer", packages=("saq", "redis", "hiredis", "typing_extensions"),
        worker=("saq", "saq_peer.settings", "--quiet"),
    ),
    Engine(
        name="huey", module="huey_peer", packages=("huey", "redis", "hiredis"), tasks=5000,
        worker=("huey_consumer", "huey_peer.huey", "-w", "1", "-k", "process", "-q"),
    ),
    Engine(
        name="streaq", module="streaq_peer", packages=("streaq",), graphs=True,
        worker=("streaq", "run", "streaq_peer:worker"),
    ),
    Engine(name="bullmq", module="bullmq_peer", packages=("bullmq", "hiredis"), tasks=2000),
)  # fmt: skip


class Environments:
    """The peers' virtual environments, below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def bin(self, engine: Engine) -> Path:
        """Where its programs are."""
        return Path(sys.prefix) / "bin" if not engine.packages else self.folder / engine.module / "bin"

    def install(self, engine: Engine) -> None:
        """Make its environment, unless it is there. Raises BenchError."""
        done = self.folder / engine.module / "installed"
        if not engine.packages or done.exists():
            return
        say(f"installing {engine.name}")
        _run(sys.executable, "-m", "venv", "--clear", str(self.folder / engine.module))
        _run(str(self.bin(engine) / "pip"), "install", "-q", *engine.packages)
        done.touch()

    def version(self, engine: Engine) -> str:
        """As pip says it; empty for what is part of this checkout."""
        if not engine.packages:
            return ""
        told = _run(str(self.bin(engine) / "pip"), "show", engine.packages[0])
        return next(row.split(": ")[1] for row in told.splitlines() if row.startswith("Version"))


def _run(*argv: str) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise BenchError(str(exc)) from exc
    if done.returncode != 0:
        raise BenchError(f"`{' '.join(argv)}` failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


class Site:
    """One engine on one server: a process that submits, and workers as asked for. Use it with `with`."""

    def __init__(
        self, engine: Engine, environments: Environments, server: Server, *, results: bool = False
    ) -> None:
        self.engine, self.server = engine, server
        self.stamps_file = server.folder / "stamps"
        self._bin = environments.bin(engine)
        self._env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(server.folder),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(PEERS),
            "BENCH_SOCKET": str(server.socket),
            "BENCH_STAMPS": str(self.stamps_file),
            "BENCH_RESULTS": str(int(results)),
            **engine.env,
        }
        self._workers: list[subprocess.Popen[bytes]] = []
        self._log = (server.folder / f"{engine.module}.log").open("ab")
        self._driver = self._start(
            str(self._bin / "python"), str(PEERS / "serve.py"), engine.module, piped=True
        )

    def __enter__(self) -> Site:
        try:
            self._hear()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with undisturbed():
            self.kill_workers()
            _end(self._driver)
            self._log.close()

    def _start(self, *argv: str, piped: bool = False) -> subprocess.Popen[bytes]:
        ends = (subprocess.PIPE, subprocess.PIPE) if piped else (subprocess.DEVNULL, self._log)
        try:
            return subprocess.Popen(
                argv, env=self._env, cwd=self.server.folder, stdin=ends[0], stdout=ends[1],
                stderr=self._log, start_new_session=True, bufsize=0,
            )  # fmt: skip
        except OSError as exc:
            raise BenchError(f"{self.engine.name} cannot be started: {exc}") from exc

    # -- the one who submits

    def do(self, name: str, *args: Any) -> dict[str, Any]:
        """Let the submitting process do something; see peers/serve.py. Raises BenchError."""
        assert self._driver.stdin is not None
        self._driver.stdin.write(json.dumps({"do": name, "args": args}).encode() + b"\n")
        said = self._hear()
        if "error" in said:
            raise BenchError(f"{self.engine.name}: {name}: {said['error']}")
        return said

    def _hear(self) -> dict[str, Any]:
        assert self._driver.stdout is not None
        text, deadline = b"", time.monotonic() + ANSWER_S * 10
        while not text.endswith(b"\n"):
            ready, _, _ = select.select([self._driver.stdout], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(self._driver.stdout.fileno(), 65536) if ready else b""
            if not part:
                raise BenchError(f"{self.engine.name}: its submitting process ended or hangs: {self.words()}")
            text += part
        said = json.loads(text.splitlines()[-1])
        return dict(said)

    def words(self) -> str:
        """The end of what its processes wrote."""
        return Path(self._log.name).read_text(errors="replace").strip()[-800:]

    # -- workers

    def work(self) -> int:
        """Start a worker; its pid."""
        worker = self.engine.worker or ("python", str(PEERS / f"{self.engine.module}.py"))
        words = [word.format(socket=self.server.socket) for word in worker]
        self._workers.append(self._start(str(self._bin / words[0]), *words[1:]))
        return self._workers[-1].pid

    def ready(self) -> None:
        """Start a worker, and wait until it has done something."""
        self.work()
        before = self.count()
        self.do("one")
        self.until(before + 1, START_S)

    def kill_workers(self) -> None:
        """kill -9 of every worker with all its processes."""
        workers, self._workers = self._workers, []
        for worker in workers:
            _end(worker)

    def worker_cpu_s(self) -> float:
        """CPU time so far of all processes of its workers."""
        return sum(cpu_s(process) for worker in self._workers for process in _tree(worker.pid))

    # -- what has run

    def count(self) -> int:
        """Runs that have begun."""
        with contextlib.suppress(FileNotFoundError):
            return self.stamps_file.stat().st_size // 8
        return 0

    def until(self, count: int, timeout_s: float = ANSWER_S) -> None:
        """Wait until so many have. Raises BenchError."""
        what = f"{self.engine.name}: {count} runs begin"
        try:
            eventually(lambda: self.count() >= count, timeout_s, what)
        except BenchError as exc:
            raise BenchError(f"{exc} ({self.count()} did): {self.words()}") from None

    def stamps(self) -> list[int]:
        """When each did, in ns, in order."""
        data = self.stamps_file.read_bytes()
        return sorted(struct.unpack(f"{len(data) // 8}q", data))


def _tree(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    return []


def _end(process: subprocess.Popen[bytes]) -> None:
    """kill -9 of a process and all below it; returns when they are gone."""
    family = _tree(process.pid)
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()
    psutil.wait_procs(family, timeout=10)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def chosen(names: Sequence[str] | None) -> list[Engine]:
    """Those of these names, or all. Raises BenchError."""
    by_name = {engine.name: engine for engine in ENGINES}
    unknown = sorted(set(names or ()) - by_name.keys())
    if unknown:
        raise BenchError(f"no engine {unknown[0]!r}; there are: {', '.join(by_name)}")
    return [engine for name, engine in by_name.items() if not names or name in names]
