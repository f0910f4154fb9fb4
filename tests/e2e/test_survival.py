"""What survives: kill -9 of anything, a dead tmux server, a hung process, while real work goes on."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ai_infra.testing import wait_until
from tests.e2e.conftest import SESSION, WINDOWS, Installation, alive

QUICK = "supervisor: {restart_delay_s: 0.2, heartbeat_s: 0.5, offline_s: 2}\n"


def hang(pid: int) -> None:
    """Hold a process still, as a debugger does (tmux would continue a stopped one). Only kill -9 ends it."""
    attach = 16
    assert ctypes.CDLL(None, use_errno=True).ptrace(attach, pid, 0, 0) == 0, os.strerror(ctypes.get_errno())


def thirty_tasks(machine: Installation) -> Path:
    """A workflow of 30 tasks over all agents, in chains with a join; each writes a line when it is done."""
    agents = ["code", "data", "infra", "research", "qa", "supervisor"]
    lines = ["name: thirty", "tasks:"]
    for i in range(29):
        needs = f", needs: [t{i - 6}]" if i >= 6 else ""
        lines.append(
            f"  t{i}: {{agent: {agents[i % 6]}, max_attempts: 9, retry_delay_s: 0.1{needs}, "
            f'run: ["sleep 0.3; echo {i} >> $AI_INFRA_WORKFLOW_DIR/done"]}}'
        )
    lines.append(f"  last: {{agent: qa, needs: [{', '.join(f't{i}' for i in range(29))}], run: [['true']]}}")
    path = machine.root / "thirty.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_kill_9_of_each_window_in_turn_loses_nothing(machine: Installation) -> None:
    machine.configure("supervisor: {restart_delay_s: 0.2}\n")
    machine.ok("up")
    flow = machine.json("workflow", "run", str(thirty_tasks(machine)), "--no-wait")["id"]
    for window in WINDOWS:
        machine.wait_healed(window, machine.kill(window))
    machine.ok("workflow", "show", flow, "--follow", timeout_s=90)
    view = machine.json("workflow", "show", flow)
    assert view["state"] == "COMPLETED", view
    assert [task["state"] for task in view["tasks"]] == ["COMPLETED"] * 30
    done = (machine.home.workflows / flow / "done").read_text().split()
    assert sorted(set(done), key=int) == [str(i) for i in range(29)]
    restarts = {w["name"]: w["restarts"] for w in machine.json("status")["windows"]}
    assert restarts == dict.fromkeys(WINDOWS, 1)


def test_a_command_that_meets_a_dying_redis_waits_until_it_is_back(session: Installation) -> None:
    task = session.ok("task", "submit", "code", "--", "sleep", "30").strip()
    session.kill("redis")
    wait_until(lambda: not session.home.redis_socket.exists(), 10, "its socket is gone")
    session.ok("task", "submit", "qa", "--wait", "--", "true")
    session.ok("task", "cancel", task)
    session.ok("down")
    assert "the session is not up" in session.fails("task", "list", code=3)


def test_a_killed_agents_task_runs_again_in_a_moment_and_not_twice_at_once(session: Installation) -> None:
    text = "echo $$ >> $HOME/pids; exec sleep 600"
    task = session.ok("task", "submit", "code", "--shell", text).strip()
    pids = session.home.scratch("code") / "pids"
    wait_until(lambda: pids.exists() and pids.read_text(), 10, "the command runs")
    killed_at = time.monotonic()
    session.kill("code")
    wait_until(lambda: len(pids.read_text().split()) == 2, 15, "the command runs again")
    took_s = time.monotonic() - killed_at
    first, second = pids.read_text().split()
    assert not alive(first)
    assert alive(second)
    assert session.task(task)["attempt"] == 2
    print(f"kill -9 to running again: {took_s:.2f} s")
    session.ok("task", "cancel", task)
    wait_until(lambda: not alive(second), 10, "the command was stopped")


def test_the_supervisors_death_is_healed_by_a_peer(session: Installation) -> None:
    old = session.kill("supervisor")
    session.wait_healed("supervisor", old)
    events = [row for row in session.json("logs", "-n", "500") if row["event"] == "window_restarted"]
    assert [(row["window"], row["by"] != "supervisor") for row in events] == [("supervisor", True)]


def test_the_supervisor_and_an_agent_dying_together_are_both_healed(session: Installation) -> None:
    agent, supervisor = session.kill("code"), session.kill("supervisor")
    session.wait_healed("supervisor", supervisor)
    session.wait_healed("code", agent)


def test_work_survives_the_death_of_redis(session: Installation) -> None:
    text = "sleep 1; echo done"
    task = session.ok("task", "submit", "code", "--attempts", "3", "--shell", text).strip()
    wait_until(lambda: session.task(task)["state"] == "IN_PROGRESS", 10, "the task runs")
    session.wait_healed("redis", session.kill("redis"))
    session.ok("task", "wait", task, "--timeout", "30")
    assert session.task(task)["attempt"] == 1


def test_a_redis_server_that_stands_still_does_not_keep_its_data_from_the_next(session: Installation) -> None:
    task = session.ok("task", "submit", "code", "--wait", "--", "echo", "kept").split()[0]
    window = session.pid("redis")
    assert window is not None
    server = int(Path(f"/proc/{window}/task/{window}/children").read_text().split()[0])
    os.kill(server, signal.SIGSTOP)
    session.wait_healed("redis", session.kill("redis"), timeout_s=40)
    assert not alive(server)
    assert session.task(task)["result"]["output_tail"] == "kept\n"
    assert next(w for w in session.json("status")["windows"] if w["name"] == "redis")["restarts"] == 1


def test_the_death_of_the_tmux_server_is_healed_by_up(session: Installation) -> None:
    done = session.ok("task", "submit", "code", "--wait", "--name", "before", "--", "echo", "kept").split()[0]
    running = session.ok(
        "task", "submit", "qa", "--attempts", "3", "--shell", "sleep 0.5; echo again"
    ).strip()
    server = int(session.tmux("display-message", "-p", "#{pid}"))
    os.kill(server, signal.SIGKILL)
    wait_until(lambda: session.run("status").returncode == 3, 20, "the status says that it is down")
    session.ok("up")
    session.ok("task", "wait", running, "--timeout", "30")
    assert session.task(done)["result"]["output_tail"] == "kept\n"
    assert session.json("status")["is_well"]


def test_as_after_a_reboot_everything_comes_back(session: Installation) -> None:
    task = session.ok("task", "submit", "code", "--attempts", "3", "--shell", "sleep 0.5; echo back").strip()
    server = int(session.tmux("display-message", "-p", "#{pid}"))
    for pid in [server, *[session.pid(window) for window in WINDOWS]]:
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
    session.ok("up")
    session.ok("task", "wait", task, "--timeout", "30")


def test_a_window_that_a_person_closed_comes_back(session: Installation) -> None:
    old = session.pid("data")
    assert old is not None
    session.tmux("kill-window", "-t", f"{SESSION}:data")
    session.wait_healed("data", old)
    assert "data" in session.tmux("list-windows", "-t", SESSION, "-F", "#{window_name}").split()


def test_a_hung_process_is_replaced_by_vote(machine: Installation) -> None:
    machine.configure(QUICK)
    machine.ok("up")
    for window in ("code", "supervisor"):
        old = machine.pid(window)
        assert old is not None
        hang(old)
        machine.wait_healed(window, old, timeout_s=30)


def test_five_restarts_make_a_window_fatal_until_a_person_clears_it(machine: Installation) -> None:
    machine.configure("supervisor: {restart_delay_s: 0.01, restart_delay_max_s: 0.01}\n")
    machine.ok("up")

    def state() -> str:
        return str(next(w for w in machine.json("status")["windows"] if w["name"] == "data")["state"])

    waiting = machine.ok("task", "submit", "data", "--", "echo", "waited").strip()
    machine.ok("task", "wait", waiting, "--timeout", "20")
    for _ in range(6):
        machine.kill("data")
        wait_until(lambda: state() in ("RUNNING", "FATAL"), 20, "data is back or given up")
    assert state() == "FATAL"
    assert machine.run("status").returncode == 1
    assert "FATAL" in machine.screen("supervisor")
    wait_until(
        lambda: "FATAL: data" in machine.tmux("show-options", "-v", "-t", SESSION, "status-right"), 10, "said"
    )
    task = machine.ok("task", "submit", "data", "--", "echo", "later").strip()
    assert machine.task(task)["state"] == "READY"
    machine.ok("restart", "data")
    machine.ok("task", "wait", task, "--timeout", "20")
    assert machine.json("status")["is_well"]


def test_a_tmux_that_does_not_answer_restarts_nothing(session: Installation) -> None:
    before = {window: session.pid(window) for window in WINDOWS}
    server = int(session.tmux("display-message", "-p", "#{pid}"))
    os.kill(server, signal.SIGSTOP)
    try:
        told = session.json("status")
        assert any("tmux is unclear" in problem for problem in told["problems"])
        assert {w["name"]: w["state"] for w in told["windows"]} == dict.fromkeys(WINDOWS, "RUNNING")
        assert "tmux" in session.fails("up", code=3)
    finally:
        os.kill(server, signal.SIGCONT)
    session.ok("status")
    assert {window: session.pid(window) for window in WINDOWS} == before
    assert not [row for row in session.json("logs", "-n", "500") if row["event"] == "window_died"]


def test_a_terminal_that_takes_nothing_holds_no_window(session: Installation) -> None:
    pid, server = session.pid("logs"), int(session.tmux("display-message", "-p", "#{pid}"))
    assert pid is not None
    log = session.home.logs / "flood.jsonl"
    os.kill(server, signal.SIGSTOP)
    try:
        with log.open("w") as file:
            for number in range(5000):
                file.write(f'{{"event": "flood", "level": "info", "number": {number}}}\n')
        wait_until(lambda: _has_read(pid, log), 10, "the logs window has seen it")
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not alive(pid), 10, "it ends although nobody takes what it shows")
    finally:
        os.kill(server, signal.SIGCONT)
    session.wait_healed("logs", pid)


def _has_read(pid: int, path: Path) -> bool:
    """Whether a process has read a file to its end."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if Path(os.readlink(link)) == path:
                pos = int(Path(f"/proc/{pid}/fdinfo/{link.name}").read_text().split()[1])
                return pos == path.stat().st_size
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_drains_and_the_window_comes_back(session: Installation, number: signal.Signals) -> None:
    old = session.pid("qa")
    assert old is not None
    os.kill(old, number)
    session.wait_healed("qa", old)
    died = [row for row in session.json("logs", "supervisor", "-n", "500") if row["event"] == "window_died"]
    assert "asked by " + number.name in died[0]["how"]


def test_cancel_reaches_a_running_command_with_its_children(session: Installation) -> None:
    text = "sleep 600 & setsid sleep 601 & echo $! > $HOME/daemon; wait"
    task = session.ok("task", "submit", "code", "--shell", text).strip()
    daemon = session.home.scratch("code") / "daemon"
    wait_until(lambda: daemon.exists() and daemon.read_text(), 10, "the command runs")
    pid = int(daemon.read_text())
    session.ok("task", "cancel", task)
    wait_until(lambda: session.task(task)["state"] == "CANCELLED", 10, "the task is cancelled")
    assert not alive(pid)


def test_a_command_that_ignores_everything_is_killed_at_its_timeout(session: Installation) -> None:
    task = session.ok(
        "task",
        "submit",
        "code",
        "--attempts",
        "1",
        "--timeout",
        "0.5",
        "--shell",
        "trap '' TERM INT HUP; while :; do sleep 1; done",
    ).strip()
    session.run("task", "wait", task, "--timeout", "30")
    view = session.task(task)
    assert view["state"] == "FAILED"
    assert "not finished after 0.5 s" in view["error"]
    left = subprocess.run(
        ["pgrep", "-f", "trap '' TERM INT HUP"], capture_output=True, text=True, check=False
    )
    assert left.stdout == ""


def test_up_says_why_a_window_does_not_come_up(machine: Installation) -> None:
    machine.configure("supervisor: {ready_timeout_s: 4}\n")
    blocked = machine.home.scratch("data")
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where a folder should be")
    told = machine.fails("up", code=8)
    assert "not ready after 4 s: data" in told
    assert "scratch/data" in told
    blocked.unlink()
    machine.ok("up")
    assert machine.json("status")["is_well"]


@pytest.mark.parametrize("window", ["supervisor", "redis"])
def test_restart_of_what_all_others_need(session: Installation, window: str) -> None:
    old = session.pid(window)
    session.ok("restart", window)
    assert session.wait_healed(window, old or 0) != old
    session.ok("task", "submit", "code", "--wait", "--", "true")
    assert not [row for row in session.json("logs", "-n", "500") if row["event"] == "window_died"]


def test_a_daemon_that_hides_from_its_group_its_session_and_its_mark_ends_with_its_task(
    session: Installation,
) -> None:
    hidden = (
        "setsid env -i /bin/sh -c 'echo $$ > {0}; exec sleep 602' >/dev/null 2>&1 < /dev/null & sleep 0.3"
    )
    place = session.root / "hidden"
    for agent in ("code", "supervisor"):
        session.ok("task", "submit", agent, "--wait", "--shell", hidden.format(place))
        assert not alive(place.read_text().strip())
    assert session.json("status")["is_well"]
