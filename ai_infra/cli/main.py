"""The parser's root: all commands, loaded when they are used, and how errors become exit codes."""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
import traceback

import click

from ai_infra.core.errors import AiInfraError, Exit

#: command → module that defines it, and its one line in `ai-infra --help`
COMMANDS = {
    "up": ("session", "Start the session, or what is missing of it."),
    "down": ("session", "Stop every process and end the session."),
    "status": ("session", "Show every window: alive, busy, healthy?"),
    "attach": ("session", "Show the session in this terminal."),
    "restart": ("session", "Replace the process of one window."),
    "logs": ("session", "Show what the processes logged."),
    "task": ("task", "Submit, list, show, watch, wait for, cancel, retry tasks."),
    "workflow": ("workflow", "Run a file of tasks that depend on each other."),
    "send": ("message", "Put a message into an agent's inbox."),
    "ask": ("message", "Ask an agent, and wait for its answer."),
    "broadcast": ("message", "Put one message into every agent's inbox."),
    "handoff": ("message", "Make another agent the owner of a task."),
    "inbox": ("inbox", "Show messages, and what became of them."),
    "agent": ("agent", "List, pause and resume agents."),
    "checkup": ("checkup", "Examine a git repository and this machine."),
    "doctor": ("doctor", "Check this machine and installation."),
    "config": ("config", "Show and check the settings."),
    "version": ("version", "Print the version."),
}

EXIT_CODES = "\b\nExit codes:\n" + "\n".join(
    f"  {code.value:<4}{words}"
    for code, words in {
        Exit.OK: "done",
        Exit.FAILED: "the work ran and failed, or a check found something wrong",
        Exit.USAGE: "wrong flag, name or value",
        Exit.NOT_RUNNING: "the session, or Redis, is not up",
        Exit.NOT_FOUND: "no such task, workflow, window or file",
        Exit.CONFLICT: "the state does not allow it, or somebody else is at it",
        Exit.CONFIG: "a settings or workflow file is wrong",
        Exit.SYSTEM: "a program, a right or disk space is missing on this machine",
        Exit.TIMEOUT: "not finished in the time given",
        Exit.INTERRUPTED: "interrupted (Ctrl-C)",
    }.items()
)


_MAX_LINES, _MAX_LINE = 200, 4000  #: of an error: what a person may have to read


class LazyGroup(click.Group):
    """Loads a command's module only when that command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of that name, or None."""
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"ai_infra.cli.{COMMANDS[name][0]}")
        command = getattr(module, name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`, without loading anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES + "\n\n\b\nExamples:\n  ai-infra up\n  ai-infra status\n  ai-infra checkup .\n"
    "  tmux attach -t ai-infrastructure",
)
@click.version_option(package_name="ai-infra", message="ai-infra %(version)s")
def cli() -> None:
    """A supervised team of AI agents on this machine, in one tmux session."""


def run_cli() -> int:
    """Parse, run, and say errors in one line; the exit code."""
    for stream in (sys.stdout, sys.stderr):  # a terminal that is not UTF-8 shows what it can
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # closed by whoever started us
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 for as long as the process lives
    try:
        code = cli.main(standalone_mode=False, prog_name="ai-infra")
        sys.stdout.flush()
        return int(code) if isinstance(code, int) else Exit.OK
    except click.exceptions.NoArgsIsHelpError as exc:
        click.echo(exc.ctx.get_help() if exc.ctx is not None else "", err=True)
        return Exit.USAGE
    except click.UsageError as exc:
        return _say(_usage_words(exc), Exit.USAGE)
    except click.exceptions.Abort:
        return _say("interrupted", Exit.INTERRUPTED)
    except click.ClickException as exc:
        return _say(exc.format_message(), Exit.USAGE)
    except AiInfraError as exc:
        return _say(str(exc), exc.exit_code)
    except KeyboardInterrupt:
        return _say("interrupted", Exit.INTERRUPTED)
    except BrokenPipeError:
        sys.stdout = None  # whoever read us has gone: nothing more to say
        return Exit.OK
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EIO):
            return _say(f"bug: {exc!r}{_keep_trace()}", Exit.FAILED)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 what is still in it cannot be written either
        return _say(f"the output cannot be written: {exc.strerror}", Exit.SYSTEM)
    except Exception as exc:  # noqa: BLE001 the rim: a bug ends in one line, its trace in a file
        return _say(f"bug: {exc!r}{_keep_trace()}", Exit.FAILED)


def _usage_words(exc: click.UsageError) -> str:
    path = exc.ctx.command_path if exc.ctx is not None else "ai-infra"
    return f"{exc.format_message().rstrip('.')}; see `{path} --help`"


def _short(line: str) -> str:
    return line if len(line) <= _MAX_LINE else f"{line[: _MAX_LINE // 2]} … {line[-_MAX_LINE // 2 :]}"


def _say(words: str, code: Exit) -> Exit:
    shown = words.split("\n")[:_MAX_LINES]
    if not (words.isascii() and words.isprintable()):  # what a task, a message or a name may hold
        from ai_infra.dashboard.clean import clean

        shown = [clean(line) for line in shown]
    click.echo("ai-infra: " + "\n".join(map(_short, shown)), err=True)
    return code


def _keep_trace() -> str:
    from ai_infra.core.home import Home

    try:
        path = Home.from_env(os.environ).logs / "cli-trace.txt"
        path.write_text(traceback.format_exc())
    except (OSError, AiInfraError):
        return ""
    return f" (trace in {path})"
