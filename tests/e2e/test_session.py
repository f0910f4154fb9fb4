"""The session: booted, looked at, taken down; what is a person's own stays untouched."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import psutil

from ai_infra.testing import wait_until
from tests.e2e.conftest import PROGRAM, SESSION, WINDOWS, Installation, alive


def test_fresh_boot_shows_every_window_ready(machine: Installation) -> None:
    told = machine.ok("up")
    for window in WINDOWS:
        assert f"{window:<12}ready" in told
    names = machine.tmux("list-windows", "-t", SESSION, "-F", "#{window_index} #{window_name}").split("\n")
    assert names[: len(WINDOWS)] == [f"{i} {name}" for i, name in enumerate(WINDOWS)]
    assert machine.tmux("display-message", "-p", "-t", SESSION, "#{window_name}").strip() == "supervisor"
    status = machine.json("status")
    assert status["is_well"]
    assert status["durable"]
    assert {w["name"]: w["state"] for w in status["windows"]} == dict.fromkeys(WINDOWS, "RUNNING")
    assert machine.run("status").returncode == 0


def test_state_is_the_owners_alone(session: Installation) -> None:
    root = session.home.root
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert stat.S_IMODE(session.home.redis_socket.stat().st_mode) == 0o700
    redis_pids = [int(p) for p in os.listdir("/proc") if p.isdigit() and _is_redis_of(int(p), root)]
    assert redis_pids
    assert not any(psutil.Process(pid).net_connections(kind="inet") for pid in redis_pids)


def _is_redis_of(pid: int, root: Path) -> bool:
    try:
        return "redis-server" in os.readlink(f"/proc/{pid}/exe") + Path(
            f"/proc/{pid}/cmdline"
        ).read_text() and (os.readlink(f"/proc/{pid}/cwd") == str(root / "redis"))
    except OSError:
        return False


def test_no_secret_of_the_shell_or_of_the_tmux_server_reaches_a_window(machine: Installation) -> None:
    secret = "key-" + "of-a-person"
    server = subprocess.run(
        ["tmux", "-S", str(machine.socket), "-f", "/dev/null", "new-session", "-d", "-s", "mine"],
        env={**machine.env, "SERVER_SECRET": secret}, check=True,
    )  # fmt: skip
    assert server.returncode == 0
    machine.ok("up", ANTHROPIC_API_KEY=secret)
    for window in WINDOWS:
        environ = Path(f"/proc/{machine.pid(window)}/environ").read_bytes()
        assert secret.encode() not in environ, window
        assert b"AI_INFRA_HOME=" in environ
    assert secret not in machine.ok("task", "submit", "code", "--wait", "--", "env")
    told = subprocess.run(
        ["grep", "-rlF", secret, str(machine.home.root)], capture_output=True, text=True, check=False
    )
    assert told.stdout == ""


def test_up_twice_starts_nothing_again(session: Installation) -> None:
    before = {window: session.pid(window) for window in WINDOWS}
    assert "nothing to start" in session.ok("up")
    assert {window: session.pid(window) for window in WINDOWS} == before


def test_two_ups_at_once_make_one_session(machine: Installation) -> None:
    both = [machine.start("up"), machine.start("up")]
    told = [process.communicate(timeout=90)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert sorted("9 started" in text for text in told) == [False, True]
    rows = machine.tmux("list-panes", "-a", "-F", "#{@ai_infra_window}").split()
    assert sorted(rows) == sorted(WINDOWS)


def test_other_sessions_options_and_keys_are_untouched(machine: Installation) -> None:
    machine.tmux("-f", "/dev/null", "new-session", "-d", "-s", "mine", "-n", "work", "sleep", "infinity")
    machine.tmux("set-option", "-g", "base-index", "1")
    machine.tmux("new-session", "-d", "-s", "ai-infrastructure-notes", "sleep", "infinity")

    def view() -> list[str]:
        asked = (["show-options", "-g"], ["show-options", "-gw"], ["show-options", "-s"], ["list-keys"],
                 ["show-environment", "-g"], ["show-hooks", "-g"],
                 ["list-panes", "-s", "-t", "=mine", "-F", "#{window_id} #{window_name} #{pane_pid}"],
                 ["list-panes", "-s", "-t", "=ai-infrastructure-notes", "-F", "#{window_index} #{pane_pid}"],
                 ["show-options", "-t", "=mine:"])  # fmt: skip
        return [machine.tmux(*words) for words in asked]

    before = view()
    machine.ok("up")
    machine.ok("task", "submit", "code", "--wait", "--", "true")
    assert view() == before
    indexes = machine.tmux("list-windows", "-t", f"={SESSION}", "-F", "#{window_index}").split()
    assert indexes == [str(i) for i in range(len(WINDOWS))]
    machine.ok("down")
    assert view() == before


def test_a_foreign_session_of_our_name_is_left_alone(machine: Installation) -> None:
    machine.tmux("-f", "/dev/null", "new-session", "-d", "-s", SESSION, "sleep", "infinity")
    pids = machine.tmux("list-panes", "-a", "-F", "#{pane_pid}")
    assert "was not made by ai-infra" in machine.fails("up", code=5)
    assert machine.run("down").returncode == 0
    assert machine.tmux("list-panes", "-a", "-F", "#{pane_pid}") == pids


def test_down_leaves_no_process_no_socket_no_server(session: Installation) -> None:
    pids = [session.pid(window) for window in WINDOWS]
    session.ok("down")
    assert not any(alive(pid) for pid in pids)
    assert not session.home.redis_socket.exists()
    assert session.tmux("list-sessions") == ""
    wait_until(lambda: not _marked(session), 5, "every process of the installation is gone")
    assert "nothing was running" in session.ok("down")


def _marked(machine: Installation) -> list[int]:
    mark = f"AI_INFRA_HOME={machine.home.root}".encode()
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                found.append(int(name))
        except OSError:
            continue
    return found


def test_down_gives_a_running_command_its_grace_and_keeps_its_task(session: Installation) -> None:
    text = "trap 'echo asked > asked' TERM; echo $$ > pid; sleep 600 & wait; wait"
    task = session.ok("task", "submit", "code", "--shell", text).strip()
    folder = session.home.scratch("code") / "working" / task
    wait_until(lambda: (folder / "pid").exists() and (folder / "pid").read_text(), 10, "the command runs")
    pid = int((folder / "pid").read_text())
    session.ok("down")
    assert (folder / "asked").exists()
    assert not alive(pid)
    session.ok("up")
    wait_until(lambda: session.task(task)["state"] == "IN_PROGRESS", 10, "the task runs again")
    again = session.task(task)
    assert (again["attempt"], again["excused"]) == (2, 1)  # a new number, and not one of those that count
    session.ok("task", "cancel", task)
    wait_until(lambda: session.task(task)["state"] == "CANCELLED", 10, "the task is cancelled")


def test_tmuxp_loads_the_same_file_and_up_adopts_the_session(machine: Installation) -> None:
    file = Path(__file__).parents[2] / "config" / "tmux" / "session.yaml"
    path = f"{PROGRAM.parent}:{machine.env['PATH']}"
    subprocess.run(
        [PROGRAM.parent / "tmuxp", "load", "-d", "-y", "-S", str(machine.socket), str(file)],
        env={**machine.env, "PATH": path}, check=True, capture_output=True, timeout=60,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    machine.ok("up")
    status = machine.json("status")
    assert status["is_well"], status
    assert machine.ok("task", "submit", "code", "--wait", "--", "true")


def test_restart_replaces_one_process_only(session: Installation) -> None:
    before = {window: session.pid(window) for window in WINDOWS}
    session.ok("restart", "code")
    after = {window: session.pid(window) for window in WINDOWS}
    assert after["code"] not in (None, before["code"])
    assert {**after, "code": 0} == {**before, "code": 0}
    assert next(w for w in session.json("status")["windows"] if w["name"] == "code")["restarts"] == 0
    assert "no window 'cod'" in session.fails("restart", "cod", code=4)


def test_logs_are_merged_and_filtered(session: Installation) -> None:
    session.ok("task", "submit", "code", "--wait", "--name", "marked", "--", "true")
    merged = session.ok("logs")
    assert "marked" in merged
    assert "supervisor" in merged
    assert "marked" not in session.ok("logs", "redis")
    rows = session.json("logs", "code")
    assert {row["process"] for row in rows} == {"code"}
    assert any(row["event"] == "task_started" for row in rows)


def test_windows_show_what_goes_on(session: Installation) -> None:
    session.ok("task", "submit", "code", "--wait", "--", "echo", "a line of output")
    wait_until(lambda: "a line of output" in session.screen("code"), 5, "the agent shows its output")
    wait_until(lambda: "supervisor" in session.screen("monitor"), 10, "the monitor shows the table")
    wait_until(
        lambda: "task_started" in session.screen("logs") or "echo" in session.screen("logs"), 5, "the logs"
    )
    assert "ready" in session.screen("supervisor")
    assert "durable: always" in session.screen("redis")


def test_up_json_tells_what_was_started(machine: Installation) -> None:
    told = json.loads(machine.ok("up", "--json"))
    assert sorted(told["started"]) == sorted(WINDOWS)
