"""Help, as a person reads it: every command explains itself, every example is right, completion works."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from ai_infra.cli.main import cli
from ai_infra.core.errors import Exit
from tests.e2e.conftest import PROGRAM, SESSION

NO_EXAMPLES = ()


def every_command(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command and subcommand there is."""
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from every_command(found, (*path, name))


def find(path: tuple[str, ...]) -> click.Command:
    """The command of these words."""
    command: click.Command | None = cli
    for name in path:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), name)
    assert command is not None
    return command


COMMANDS = list(every_command(cli))
GROUPS = [path for path in COMMANDS if path and isinstance(find(path), click.Group)]


def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `ai-infra WORDS` where there is no installation at all."""
    fixed = {"PATH": f"{PROGRAM.parent}:{os.environ['PATH']}", "HOME": "/nonexistent", "LANG": "C.UTF-8"}
    return subprocess.run(
        [PROGRAM, *words], env={**fixed, **env}, capture_output=True, text=True, timeout=30, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def help_of(*path: str) -> str:
    done = run(*path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def examples_in(text: str) -> list[str]:
    """The lines of the last section of a help text, if that is the examples."""
    lines = text.rstrip("\n").split("\n")
    heads = [i for i, line in enumerate(lines) if re.match(r" {0,2}\S.*:$", line)]
    last = heads[-1] if heads else 0
    return [line.strip() for line in lines[last + 1 :]] if lines[last].strip() == "Examples:" else []


def name_of(path: tuple[str, ...]) -> str:
    return " ".join(["ai-infra", *path])


# -- help texts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", [pytest.param(p, marks=NO_EXAMPLES if p in GROUPS else (), id=name_of(p)) for p in COMMANDS]
)
def test_help_of_every_command_ends_with_examples_of_it(path: tuple[str, ...]) -> None:
    text = help_of(*path)
    assert text.startswith(f"Usage: {name_of(path)} ")
    examples = examples_in(text)
    assert examples
    assert any(re.search(rf"\b{name_of(path)}\b", line) for line in examples)


def example_lines() -> list[str]:
    found = {line for path in COMMANDS for line in examples_in("\n\n" + (find(path).epilog or ""))}
    return sorted(line for line in found if line != "\b")


def parse(line: str) -> None:
    """Parse an example as the command would, without running it. Raises click.UsageError."""
    words = shlex.split(line)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        assert words.pop(0).startswith("AI_INFRA_")
    assert words.pop(0) == "ai-infra"
    command: click.Command = cli
    context = click.Context(cli, info_name="ai-infra")
    while isinstance(command, click.Group):
        _, found, words = command.resolve_command(context, words)
        assert found is not None
        command = found
    command.make_context(command.name, words, parent=context)


def test_every_example_is_found() -> None:
    lines = example_lines()
    assert len(lines) >= len(COMMANDS) - len(GROUPS)
    assert [line for line in lines if "ai-infra" not in line.split(" ")] == [f"tmux attach -t {SESSION}"]


@pytest.mark.parametrize("line", [line for line in example_lines() if not line.startswith("tmux ")])
def test_every_example_parses(line: str) -> None:
    parse(line)


@pytest.mark.parametrize(
    "line",
    [
        "ai-infra tsak list",
        "ai-infra task lst",
        "ai-infra task list --stat FAILED",
        "ai-infra task list --state LOST",
        "ai-infra task wait",
        "ai-infra status now",
        "ai-infra logs -n many",
    ],
)
def test_an_example_with_a_mistake_is_seen(line: str) -> None:
    with pytest.raises(click.UsageError):
        parse(line)


def test_short_help_is_the_same() -> None:
    assert run("-h").stdout == help_of()
    assert run("task", "submit", "-h").stdout == help_of("task", "submit")


def test_every_exit_code_is_in_the_help_and_no_other() -> None:
    section = help_of().split("Exit codes:\n")[1].split("\n\n")[0]
    rows = [re.fullmatch(r" +(\d+) +(\S.+)", line) for line in section.splitlines()]
    assert [int(row[1]) for row in rows if row] == [int(code) for code in Exit]
    assert None not in rows


@pytest.mark.parametrize("words", [(), *GROUPS], ids=name_of)
def test_a_command_without_its_subcommand_shows_the_help(words: tuple[str, ...]) -> None:
    done = run(*words)
    assert done.returncode == Exit.USAGE
    assert done.stdout + done.stderr == help_of(*words)


def test_version() -> None:
    assert re.fullmatch(r"ai-infra \d+\.\d+\.\d+\n", run("--version").stdout)
    assert run("version").stdout.startswith(run("--version").stdout.strip())


# -- completion ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell: str) -> None:
    done = run(_AI_INFRA_COMPLETE=f"{shell}_source")
    assert (done.returncode, done.stderr) == (0, "")
    assert "_ai_infra_completion" in done.stdout


def complete(*words: str) -> list[str]:
    """What a Tab after these words offers."""
    env = {"_AI_INFRA_COMPLETE": "bash_complete", "COMP_CWORD": str(len(words))}
    done = run(COMP_WORDS=shlex.join(["ai-infra", *words]), **env)
    assert (done.returncode, done.stderr) == (0, "")
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_completion_offers_commands_subcommands_flags_and_values() -> None:
    assert complete("ta") == ["task"]
    assert complete("task", "re") == ["retry"]
    assert complete("task", "submit", "--pri") == ["--priority"]
    assert [word.upper() for word in complete("task", "list", "--state", "CAN")] == ["CANCELLED"]
    assert complete("frob") == []


def test_completion_works_in_a_real_bash(tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(run(_AI_INFRA_COMPLETE="bash_source").stdout)
    text = (
        f"source {script}; COMP_WORDS=(ai-infra work); COMP_CWORD=1; "
        "$(complete -p ai-infra | sed 's/.*-F \\([^ ]*\\).*/\\1/') ai-infra; echo ${COMPREPLY[@]}"
    )
    env = {"PATH": f"{PROGRAM.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc", "-c", text], env=env, capture_output=True, text=True, timeout=30, check=True
    )
    assert (done.stdout, done.stderr) == ("workflow\n", "")
