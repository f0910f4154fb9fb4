"""`ai-infra task export` and `import`: tasks to a file, and back."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from ai_infra.app.command import agents_with_window, engine_now, settings_from_env
from ai_infra.cli.options import STATES
from ai_infra.cli.output import examples, json_option, print_json, run_async
from ai_infra.core.durable import fsync_dir, system_problem
from ai_infra.core.errors import UsageError
from ai_infra.dashboard.clean import clean

if TYPE_CHECKING:
    from ai_infra.tasks.transfer import Imported


@examples(
    "ai-infra task export tasks.jsonl",
    "ai-infra task export --all everything.jsonl.gz",
    "ai-infra task export --state FAILED --state READY -",
)
@click.command()
@click.argument("file")
@click.option(
    "--state", "states", type=click.Choice(STATES, case_sensitive=False), multiple=True,
    help="Only tasks in this state, and what those that have not ended need; may be given several times.",
)  # fmt: skip
@click.option("--archived", is_flag=True, help="Archived tasks, too.")
@click.option("--all", "every", is_flag=True, help="Everything: every state, and archived tasks.")
def export(file: str, states: tuple[str, ...], archived: bool, every: bool) -> None:
    """Write tasks and workflows to FILE as JSON lines (`-`: to stdout; a name in .gz: compressed).

    Every task as it stands when it is read. `task import` takes the file in, here or elsewhere.
    """
    settings = settings_from_env()
    if every and states:
        raise UsageError("--all means every state; leave out --state, or say --archived beside it")

    async def act() -> int:
        from ai_infra.tasks.archive import Archive
        from ai_infra.tasks.task import State
        from ai_infra.tasks.transfer import export_lines

        archive = Archive(settings.home.archive) if archived or every else None
        async with engine_now(settings) as engine:
            wanted = frozenset(State(name.upper()) for name in states)
            return await _write(file, export_lines(engine, archive, wanted))

    count = run_async(act())
    if file != "-":
        click.echo(f"{count} tasks are in {clean(file)}")


async def _write(file: str, lines: AsyncIterator[str]) -> int:
    """How many of the lines are tasks. The file is there as a whole, or as it was before."""
    count = 0
    with _sink(file) as sink:
        async for line in lines:
            sink.write(line.encode())
            count += line.startswith('{"task"')
    return count


@contextmanager
def _sink(file: str) -> Iterator[IO[bytes]]:
    if file == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(os.path.realpath(file))  # what a link names is replaced, not the link
    if os.path.exists(file) and not os.path.isfile(file):
        raise UsageError(f"{file}: is no plain file; `-` writes to stdout")
    beside = path.with_name(f".ai-infra-{os.getpid()}.part")
    try:
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(fd, "wb") as out:
                with _packed(out) if file.endswith(".gz") else _plain(out) as sink:
                    yield sink
                out.flush()
                os.fsync(fd)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        fsync_dir(path.parent)
    except OSError as exc:
        raise system_problem(path, exc) from exc


def _packed(out: IO[bytes]) -> IO[bytes]:
    import gzip

    return gzip.GzipFile(filename="", mode="wb", fileobj=out)  # type: ignore[return-value]  # it writes bytes


@contextmanager
def _plain(out: IO[bytes]) -> Iterator[IO[bytes]]:
    yield out


@examples("ai-infra task import tasks.jsonl", "ai-infra task import - --json")
@click.command("import")
@click.argument("file")
@json_option
def import_(file: str, as_json: bool) -> None:
    """Take in the tasks of an export: all of FILE, or nothing.

    Finished tasks keep their end, result and attempts. Those that had not ended are open again, and what
    was running runs anew. A task that is here already is left alone; a different one of its id is an error.
    """
    settings = settings_from_env()

    async def act() -> Imported:
        from ai_infra.tasks.transfer import import_file

        with _source(file) as path:
            async with engine_now(settings) as engine:
                return await import_file(engine, path, agents_with_window(settings))

    done = run_async(act())
    if as_json:
        print_json(done)
        return
    there = f", {done.there} were here already" if done.there else ""
    click.echo(f"{done.imported} tasks are imported{there}")


@contextmanager
def _source(file: str) -> Iterator[Path]:
    """The file, read twice: first to check all of it. What comes from a pipe is kept meanwhile."""
    if file != "-" and (os.path.isfile(file) or os.path.isdir(file) or not os.path.exists(file)):
        yield Path(file)
        return
    with tempfile.TemporaryDirectory(prefix="ai-infra-") as folder:
        path = Path(folder) / "stdin"
        try:
            with open(path, "wb") as kept, open(sys.stdin.fileno() if file == "-" else file, "rb") as pipe:
                shutil.copyfileobj(pipe, kept)
        except OSError as exc:
            raise system_problem(path, exc) from exc
        try:
            yield path
        except UsageError as exc:  # nobody has typed the name of our copy
            raise type(exc)(str(exc).replace(str(path), "stdin" if file == "-" else file)) from exc
