"""What goes wrong is said in words that name the thing, what is wrong and what to do; nothing is lost."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ai_infra.testing import wait_until
from tests.conftest import RedisServer
from tests.e2e.conftest import WINDOWS, Installation

NEEDED = ("bash", "sh", "env", "sleep", "tmux", "redis-server", "git", "python3")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")


def path_with(machine: Installation, stand_ins: dict[str, str], without: str = "") -> str:
    """A PATH of links to what is needed, with some programs replaced by scripts, or left out."""
    folder = machine.root / "bin"
    folder.mkdir()
    for name in NEEDED:
        if name not in stand_ins and name != without:
            (folder / name).symlink_to(str(shutil.which(name)))
    for name, text in stand_ins.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return str(folder)


def test_no_redis_server(machine: Installation) -> None:
    told = machine.fails("up", code=7, PATH=path_with(machine, {}, without="redis-server"))
    assert "redis-server is not installed" in told
    assert "apt-get install redis-server" in told


def test_no_tmux(machine: Installation) -> None:
    assert "tmux is not installed" in machine.fails("up", code=7, PATH=path_with(machine, {}, without="tmux"))


def test_old_tmux(machine: Installation) -> None:
    path = path_with(machine, {"tmux": "echo tmux 3.1c"})
    assert "tmux 3.1c is too old; ai-infra needs tmux 3.2 or later" in machine.fails("up", code=7, PATH=path)


def test_old_redis_server(machine: Installation) -> None:
    path = path_with(machine, {"redis-server": "echo Redis server v=6.0.16 sha=0"})
    assert "is version 6; ai-infra needs Redis 7 or later" in machine.fails("up", code=7, PATH=path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tmux: {socket: [", "ai-infra.yaml:2: not valid YAML"),
        ("tmux:\n  sokcet: x\n", "ai-infra.yaml:2: tmux.sokcet: unknown key; did you mean 'socket'?"),
        ("tasks:\n  lease_s: soon\n", "ai-infra.yaml:2: tasks.lease_s: must be a number, not 'soon'"),
        ("tasks:\n  lease_s: -1\n", "ai-infra.yaml:2: tasks.lease_s: must be at least 1, not -1"),
        ("tmux:\n  socket: a\n  socket: b\n", "ai-infra.yaml:3: 'socket' stands twice (first on line 2)"),
        ("tmux:\n  session: a b:c\n", "ai-infra.yaml:2: tmux.session: 'a b:c' is no session name"),
        ("- a\n", "ai-infra.yaml:1: must be a table of keys"),
    ],
)
def test_broken_settings(machine: Installation, text: str, said: str) -> None:
    machine.configure(text)
    env = {"AI_INFRA_TMUX_SOCKET": str(machine.socket)}
    assert said in machine.fails("up", code=6, **env)
    assert said in machine.fails("config", "check", code=6)
    assert machine.tmux("list-sessions") == ""


def test_settings_in_the_environment_are_checked_too(machine: Installation) -> None:
    told = machine.fails("up", code=6, AI_INFRA_TASKS_LEASE_S="soon")
    assert "AI_INFRA_TASKS_LEASE_S: must be a number, not 'soon'" in told


@pytest.mark.parametrize(
    ("window", "said"),
    [
        (
            "{window_name: cod, window_shell: ai-infra run cod}",
            "no agent or sidecar 'cod'; there are supervisor",
        ),
        ("{window_name: code, window_shell: htop}", "must be 'ai-infra run code'"),
        ("{window_name: supervisor, window_shell: ai-infra run supervisor}", "'supervisor' stands twice"),
        ("{window_name: code, window_shel: x}", "unknown key; did you mean 'window_shell'?"),
    ],
)
def test_broken_session_file(machine: Installation, window: str, said: str) -> None:
    path = machine.home.config / "tmux" / "session.yaml"
    path.parent.mkdir(parents=True)
    first = "{window_name: supervisor, window_shell: ai-infra run supervisor}"
    path.write_text(f"session_name: ai-infrastructure\nwindows:\n  - {first}\n  - {window}\n")
    told = machine.fails("up", code=6)
    assert f"{path}:4" in told
    assert said in told


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ("a: {agent: cook, run: [['true']]}", "cook"),
        (
            "a: {agent: code, run: [['true']], needs: [b]}\n  b: {agent: qa, run: [['true']], needs: [a]}",
            "a → b → a",
        ),
        ("a: {agent: code, run: [['true']]}\n  a: {agent: qa, run: [['true']]}", "'a' stands twice"),
        ("a: {agent: code, run: []}", "run"),
        ("a: {agent: code, run: [['true']], needs: [z]}", "z"),
        ("a: {agent: code, rnu: [['true']]}", "did you mean 'run'?"),
        ("a: {agent: code, run: [[echo, '{{ params.x }}']]}", "params.x"),
    ],
)
def test_broken_workflows_start_nothing(shared_session: Installation, tasks: str, said: str) -> None:
    file = shared_session.root / "flow.yaml"
    file.write_text(f"name: flow\ntasks:\n  {tasks}\n")
    told = shared_session.fails("workflow", "run", str(file), code=6)
    assert f"{file}:" in told
    assert said in told
    assert not [flow for flow in shared_session.json("workflow", "list") if flow["header"]["name"] == "flow"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["frob"], 2, "No such command 'frob'; see `ai-infra --help`"),
        (["up", "--frob"], 2, "No such option '--frob'"),
        (["task", "submit", "cook", "--", "true"], 4, "no agent 'cook'; there are supervisor, code"),
        (["task", "submit", "code"], 2, "no command"),
        (["task", "submit", "code", "--priority", "11", "--", "true"], 2, "11 is not in the range 1<=x<=10"),
        (["task", "submit", "code", "--expect-output", "(", "--", "true"], 2, "regular expression"),
        (["task", "show", "t-nothing"], 4, "no task 't-nothing'; `ai-infra task list` shows them"),
        (["task", "show", "a b"], 2, "'a b' is no task id"),
        (["task", "list", "--state", "LOST"], 2, "'LOST' is not one of"),
        (["task", "wait"], 2, "Missing argument 'ID...'"),
        (
            ["workflow", "run", "nothing"],
            4,
            "no workflow 'nothing'; name a file, or one of atomic-deploy, checkup, fan-out, pattern-",
        ),
        (["workflow", "run", "nothing.yaml"], 4, "nothing.yaml: no such file"),
        (["workflow", "run", "x\x1b]0;t\x07\x9b2J.yaml"], 4, r"x\x1b]0;t\x07\x9b2J.yaml: no such file"),
        (["workflow", "undo", "no such id"], 2, "'no such id' is no workflow id"),
        (["send", "cod", "hi"], 4, "no agent 'cod'; there are supervisor"),
        (["ask", "code", "hi", "--timeout", "soon"], 2, "'soon' is not a duration"),
        (["workflow", "run", "six-tasks", "-p", "x"], 2, "--param 'x': say NAME=VALUE"),
        (["workflow", "show", "w-nothing"], 4, "no workflow 'w-nothing'"),
        (["checkup", "/nowhere"], 4, "/nowhere: no such folder"),
        (["checkup", "."], 4, "git repository"),
        (["logs", "cod"], 4, "no window 'cod'; there are supervisor"),
        (["attach", "cod"], 4, "no window 'cod'"),
        (["attach", "code"], 7, "attach needs a terminal"),
        (["run", "cook"], 4, "no agent or sidecar 'cook'"),
        (["run", "code"], 5, "code: already running as pid"),
    ],
)
def test_wrong_words(shared_session: Installation, words: list[str], code: int, said: str) -> None:
    told = shared_session.fails(*words, code=code, AI_INFRA_SUPERVISOR_DRAIN_S="0")
    assert said in told
    assert told.count("\n") == 1, told


@pytest.mark.parametrize(
    "words",
    [
        ["task", "list"],
        ["task", "submit", "code", "--", "true"],
        ["workflow", "list"],
        ["restart", "code"],
        ["attach"],
    ],
)
def test_not_up(machine: Installation, words: list[str]) -> None:
    assert "`ai-infra up` starts it" in machine.fails(*words, code=3)
    assert not machine.home.root.exists()


def test_status_and_logs_of_a_session_that_never_was(machine: Installation) -> None:
    assert machine.run("status").returncode == 3
    assert machine.run("logs").returncode == 0
    assert machine.run("down").stdout == "nothing was running\n"
    assert not machine.home.root.exists()


def test_home_of_another_user(machine: Installation) -> None:
    machine.home.root.mkdir()
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    if os.geteuid() != 0:
        pytest.skip("becomes another user")
    os.chmod(machine.root, 0o755)
    python = Path("/usr/bin/python3").resolve()
    code = "from ai_infra.core.home import Home; import os; Home.from_env(os.environ).ensure()"
    source = shutil.copytree(Path(__file__).parents[2] / "ai_infra", machine.root / "source" / "ai_infra")
    done = subprocess.run(
        [*nobody, str(python), "-c", code], env={**machine.env, "PYTHONPATH": str(source.parent)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "belongs to another user; set AI_INFRA_HOME to a folder of yours" in done.stderr


def test_home_that_is_a_file(machine: Installation) -> None:
    machine.home.root.write_text("")
    assert "is not a folder; set AI_INFRA_HOME to one" in machine.fails("up", code=7)


def test_home_with_a_path_too_long_for_sockets(machine: Installation) -> None:
    told = machine.fails("up", code=7, AI_INFRA_HOME=str(machine.root / ("x" * 100)))
    assert "too long for unix sockets" in told
    assert "AI_INFRA_HOME" in told


@pytest.fixture
def mounted(machine: Installation, request: pytest.FixtureRequest) -> Iterator[Installation]:
    machine.home.root.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", request.param, "tmpfs", str(machine.home.root)], check=True)
    try:
        yield machine
    finally:
        machine.run("down")
        subprocess.run(["umount", "-l", str(machine.home.root)], check=True)


@as_root
@pytest.mark.parametrize("mounted", ["ro"], indirect=True)
def test_read_only_home(mounted: Installation) -> None:
    assert "read-only" in mounted.fails("up", code=7)


@as_root
@pytest.mark.parametrize("mounted", ["mode=0700,size=24m"], indirect=True)
def test_full_disk_refuses_what_it_cannot_keep_and_loses_nothing(mounted: Installation) -> None:
    mounted.ok("up")
    kept = mounted.ok("task", "submit", "code", "--wait", "--name", "kept", "--", "echo", "kept").split()[0]
    filler = mounted.home.root / "filler"
    fill(filler)
    told = wait_until(lambda: _refused(mounted), 20, "a submit is refused")
    assert "full" in told
    assert "Traceback" not in told
    filler.unlink()
    done = wait_until(
        lambda: mounted.run("task", "submit", "code", "--wait", "--", "true").returncode == 0,
        40,
        "work goes on",
    )
    assert done
    assert mounted.task(kept)["result"]["output_tail"] == "kept\n"


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def _refused(machine: Installation) -> str:
    done = machine.run("task", "submit", "code", "--", "true")
    return done.stderr if done.returncode != 0 else ""


def test_a_redis_of_the_users_is_used_and_its_password_stays_hidden(
    machine: Installation, own_redis: RedisServer
) -> None:
    password = "pass" + "word-of-a-person"
    own_redis.ask("CONFIG", "SET", "requirepass", password)
    url = f"unix://:{password}@{own_redis.address}"
    machine.ok("up", AI_INFRA_REDIS_URL=url)
    windows = [name for name in WINDOWS if name != "redis"]
    assert [w["name"] for w in machine.json("status")["windows"]] == windows
    machine.ok("task", "submit", "code", "--wait", "--", "true")
    for window in windows:
        pid = machine.pid(window)
        assert password.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
        assert password.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert password not in machine.ok("config", "show") + machine.ok("doctor") + machine.ok(
        "status", "--json"
    )
    found = subprocess.run(
        ["grep", "-rlF", password, str(machine.home.root)], capture_output=True, text=True, check=False
    )
    assert found.stdout.split() == [str(machine.home.run / "overrides.json")]
    assert (machine.home.run / "overrides.json").stat().st_mode & 0o777 == 0o600
    machine.ok("down")
    assert "PONG" in own_redis.ask("AUTH", password) or own_redis.ask("AUTH", password) == "+OK\r\n"


def test_a_redis_of_the_users_that_is_not_there(machine: Installation) -> None:
    told = machine.fails("up", code=3, AI_INFRA_REDIS_URL=f"unix:///{machine.root}/nothing.sock")
    assert "nothing.sock" in told
    assert machine.tmux("list-sessions") == ""
