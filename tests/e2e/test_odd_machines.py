"""Machines as people have them: their tmux.conf, their paths, their second terminal, a command cut off."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ai_infra.testing import wait_until
from tests.conftest import RedisServer
from tests.e2e.conftest import PROGRAM, SESSION, WINDOWS, Installation, alive


def check_life(machine: Installation) -> None:
    """Up, healed after a kill, a task done, down again."""
    machine.ok("up")
    machine.wait_healed("code", machine.kill("code"))
    machine.ok("task", "submit", "code", "--wait", "--", "true")
    assert machine.json("status")["is_well"]
    pids = [machine.pid(window) for window in WINDOWS]
    machine.ok("down")
    assert not any(alive(pid) for pid in pids if pid)


@pytest.mark.parametrize(
    "conf",
    [
        "set -g destroy-unattached on",
        "set -g base-index 1\nset -g pane-base-index 1\nset -g renumber-windows on",
        "set -g remain-on-exit off\nset -g default-command 'exec sh'\nset -g detach-on-destroy off",
        "set-hook -g session-created 'new-window -d'",
        "set -g automatic-rename on\nset -g allow-rename on\nset -g update-environment 'A B'",
    ],
)
def test_a_persons_tmux_conf(machine: Installation, conf: str) -> None:
    (machine.root / "home" / ".tmux.conf").write_text(conf + "\n")
    check_life(machine)


@pytest.mark.parametrize(
    "name", ["a b", "it's", 'say "x"', "a#b", "a#(touch pwned)", "a#{pid}", "50%41", "a|b", "$HOME;x", "ü"]
)
def test_a_home_with_an_odd_name(machine: Installation, name: str) -> None:
    machine.home = type(machine.home)(machine.root / name)
    machine.env["AI_INFRA_HOME"] = str(machine.home.root)
    check_life(machine)
    assert not list(machine.root.rglob("pwned"))


def test_a_locale_that_is_not_utf_8(machine: Installation) -> None:
    machine.env |= {"LANG": "C", "LC_ALL": "C"}
    check_life(machine)


def test_a_tmux_folder_that_only_the_shell_knows(machine: Installation) -> None:
    machine.env["AI_INFRA_TMUX_SOCKET"] = "default"  # below TMUX_TMPDIR, which the windows do not get
    check_life(machine)


def test_a_session_that_a_person_renamed_is_still_ours(session: Installation) -> None:
    session.tmux("rename-session", "-t", SESSION, "mine")
    session.wait_healed("code", session.kill("code"))
    assert "nothing to start" in session.ok("up")
    assert session.tmux("list-sessions", "-F", "#{session_name}").split() == ["mine"]
    session.ok("down")
    assert session.tmux("list-sessions") == ""


def test_a_second_up_keeps_what_the_first_was_started_with(
    machine: Installation, own_redis: RedisServer
) -> None:
    machine.ok("up", AI_INFRA_REDIS_URL=f"unix://{own_redis.address}")
    assert "nothing to start" in machine.ok("up")
    machine.ok("task", "submit", "code", "--wait", "--", "true")
    machine.wait_healed("code", machine.kill("code"))
    machine.ok("down")
    machine.ok("up")
    assert [w["name"] for w in machine.json("status")["windows"]] == WINDOWS


def test_the_socket_setting_may_change_while_the_session_is_up(session: Installation) -> None:
    pids = [session.pid(window) for window in WINDOWS]
    other = str(session.root / "other")
    assert "nothing to start" in session.ok("up", AI_INFRA_TMUX_SOCKET=other)
    assert [session.pid(window) for window in WINDOWS] == pids
    assert session.run("down", AI_INFRA_TMUX_SOCKET=other).returncode == 0
    assert session.tmux("list-sessions") == ""


@pytest.fixture
def stubborn(session: Installation) -> Iterator[Installation]:
    """The code agent runs a command that takes its whole drain."""
    task = session.ok(
        "task", "submit", "code", "--shell", "trap '' TERM; touch $HOME/on; sleep 60; sleep 60"
    ).strip()
    wait_until(lambda: (session.home.scratch("code") / "on").exists(), 10, "the command runs")
    yield session
    session.run("task", "cancel", task)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_a_restart_that_is_cut_off_leaves_no_window_empty(
    stubborn: Installation, number: signal.Signals
) -> None:
    old = stubborn.pid("code")
    restart = stubborn.start("restart", "code")
    wait_until(
        lambda: "stop_asked" in (stubborn.home.logs / "code.jsonl").read_text(), 10, "it was asked to stop"
    )
    restart.send_signal(number)
    restart.communicate(timeout=30)
    assert old is not None
    stubborn.wait_healed("code", old, timeout_s=60)


def test_a_second_home_on_the_same_tmux_server_is_refused_by_name(session: Installation) -> None:
    told = session.fails("up", code=5, AI_INFRA_HOME=str(session.root / "second"))
    assert f"belongs to another installation (AI_INFRA_HOME={session.home.root})" in told


def test_a_second_home_with_a_session_of_its_own_lives_beside(session: Installation) -> None:
    second = {"AI_INFRA_HOME": str(session.root / "second"), "AI_INFRA_TMUX_SESSION": "second"}
    session.ok("up", **second)
    session.ok("task", "submit", "code", "--wait", "--", "true", **second)
    session.ok("task", "submit", "code", "--wait", "--", "true")
    session.ok("down", **second)
    assert session.json("status")["is_well"]
    assert session.tmux("list-sessions", "-F", "#{session_name}").split() == [SESSION]


def test_a_supervisor_given_up_does_not_end_the_healing_of_others(machine: Installation) -> None:
    machine.configure("supervisor: {restart_delay_s: 0.01, restart_delay_max_s: 0.01, heartbeat_s: 0.5}\n")
    machine.ok("up")

    def state(name: str) -> str:
        return str(next(w for w in machine.json("status")["windows"] if w["name"] == name)["state"])

    for _ in range(6):
        machine.kill("supervisor")
        wait_until(
            lambda: state("supervisor") in ("RUNNING", "FATAL"), 20, "the supervisor is back or given up"
        )
    assert state("supervisor") == "FATAL"
    old = machine.kill("qa")
    machine.wait_healed("qa", old)


def test_nothing_dies_when_no_process_can_be_started(session: Installation) -> None:
    supervisor = session.pid("supervisor")
    assert supervisor is not None
    old = session.pid("data")
    subprocess.run(["prlimit", "--pid", str(supervisor), "--nofile=16:"], check=True)
    session.kill("data")
    wait_until(lambda: "healing_failed" in _log(session) or "tmux_unclear" in _log(session), 20, "it says so")
    assert session.pid("supervisor") == supervisor
    subprocess.run(["prlimit", "--pid", str(supervisor), "--nofile=1024:"], check=True)
    session.wait_healed("data", old or 0, timeout_s=40)


def _log(machine: Installation) -> str:
    return (machine.home.logs / "supervisor.jsonl").read_text()


def test_damaged_files_of_the_home_are_made_anew(session: Installation) -> None:
    (session.home.run / "windows.json").write_text("{torn")
    (session.home.run / "overrides.json").write_text("{torn")
    Path(session.home.run / "code.exit.json").write_text("")
    session.ok("up")
    session.wait_healed("code", session.kill("code"))
    assert session.json("status")["is_well"]


def test_an_up_that_is_killed_at_any_moment_is_finished_by_the_next(machine: Installation) -> None:
    for number in range(8):
        _kill_up(machine, number)
        machine.ok("up")
        assert machine.json("status")["is_well"]
        assert _panes(machine) == len(WINDOWS)
        machine.ok("down")
        assert machine.tmux("list-sessions") == ""


def _kill_up(machine: Installation, panes: int) -> None:
    """Begin `up`, and kill it when there are more than so many panes."""
    first = machine.start("up")
    wait_until(lambda: _panes(machine) > panes or first.poll() is not None, 20, "the session grows")
    first.kill()
    first.communicate()


def _panes(machine: Installation) -> int:
    return len(machine.tmux("list-panes", "-a", "-F", "#{pane_id}").split())


def test_a_person_may_open_windows_of_their_own_in_the_session(session: Installation) -> None:
    session.tmux("kill-window", "-t", f"{SESSION}:data")
    session.tmux("new-window", "-d", "-t", f"{SESSION}:2", "-n", "mine", "sleep", "infinity")
    wait_until(lambda: session.json("status")["is_well"], 20, "data is back, at another index")
    names = session.tmux("list-windows", "-t", SESSION, "-F", "#{window_name}").split()
    assert sorted(names) == sorted([*WINDOWS, "mine"])


def test_a_ledger_that_was_removed_does_not_end_the_healing(session: Installation) -> None:
    (session.home.run / "windows.json").unlink()
    session.wait_healed("code", session.kill("code"), timeout_s=30)


def test_logs_that_were_removed_under_a_session_begin_anew(session: Installation) -> None:
    pids = {window: session.pid(window) for window in WINDOWS}
    subprocess.run(["rm", "-rf", str(session.home.logs)], check=True)
    for name in ("first", "second"):  # the line that finds its file gone may go with it
        words = ["task", "submit", "code", "--wait", "--name", name, "--", "echo", "well"]
        task = session.ok(*words).split()[0]
    assert "well" in (session.home.task_logs / f"{task}.1.log").read_text()
    wait_until(lambda: "second" in session.screen("logs"), 10, "the logs window shows the new file")
    assert [row for row in session.json("logs", "code") if row["event"] == "task_ended"]
    assert {window: session.pid(window) for window in WINDOWS} == pids


def test_locks_and_socket_that_were_removed_are_made_again(machine: Installation) -> None:
    machine.configure("supervisor: {heartbeat_s: 0.5}\n")
    machine.ok("up")
    pids = {window: machine.pid(window) for window in WINDOWS}
    redis = pids.pop("redis")
    for path in [*machine.home.run.glob("*.lock"), machine.home.redis_socket]:
        path.unlink()
    wait_until(lambda: all(machine.pid(name) == pid for name, pid in pids.items()), 10, "the locks are back")
    machine.wait_healed("redis", redis or 0)
    machine.ok("up")
    machine.ok("task", "submit", "code", "--wait", "--", "true")
    assert machine.json("status")["is_well"]
    assert {window: machine.pid(window) for window in pids} == pids


def test_a_home_that_was_removed_does_not_hide_the_session_from_down(session: Installation) -> None:
    pids = [session.pid(window) for window in WINDOWS]
    subprocess.run(["rm", "-rf", str(session.home.root)], check=True)
    assert "is down" in session.ok("down")
    assert session.tmux("list-sessions") == ""
    wait_until(lambda: not any(alive(pid) for pid in pids if pid), 20, "every process has ended")


def test_a_task_cannot_end_what_it_runs_in(session: Installation) -> None:
    for words in (["down"], ["restart", "code"]):
        view = session.run("task", "submit", "code", "--attempts", "1", "--wait", "--", "ai-infra", *words)
        assert view.returncode == 1
        assert "a task cannot call" in view.stdout
    assert session.json("status")["is_well"]


@pytest.mark.parametrize("file", ["ai-infra.yaml", "tmux/session.yaml"])
def test_a_window_waits_for_settings_that_a_person_is_writing(session: Installation, file: str) -> None:
    old, path = session.pid("code"), session.home.config / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("windows: [")
    session.kill("code")
    wait_until(lambda: "waiting until it is put right" in session.screen("code"), 20, "it says so")
    assert f"{path}:" in session.screen("code")
    path.unlink()
    session.wait_healed("code", old or 0)
    restarts = {w["name"]: w["restarts"] for w in session.json("status")["windows"]}
    assert restarts == {**dict.fromkeys(WINDOWS, 0), "code": 1}


def test_a_path_that_is_longer_than_tmux_takes_is_named(session: Installation) -> None:
    long = {"PATH": ":".join([session.env["PATH"], *["/x" * 50] * 170])}
    before = session.pid("code")
    for words in (["up"], ["restart", "code"]):
        assert "PATH: its 17" in session.fails(*words, code=7, **long)
    assert session.pid("code") == before
    session.ok("down", **long)
    session.fails("up", code=7, **long)
    assert session.tmux("list-sessions") == ""


def test_down_works_while_a_file_of_settings_is_broken(session: Installation) -> None:
    session.configure("tmux: {socket: [")
    assert "not valid YAML" in session.fails("status", code=6)
    session.ok("down")
    assert session.tmux("list-sessions") == ""


@pytest.mark.parametrize("place", ["/dev/full", "closed"])
def test_output_that_cannot_be_written(session: Installation, place: str) -> None:
    target = ">&-" if place == "closed" else f"> {place}"
    done = subprocess.run(
        ["bash", "-c", f'"{PROGRAM}" status {target}'],
        env=session.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "bug" not in done.stderr
    assert done.returncode == (0 if place == "closed" else 7)


def test_two_installations_do_not_share_one_redis_unseen(
    machine: Installation, own_redis: RedisServer
) -> None:
    shared = {"AI_INFRA_REDIS_URL": f"unix://{own_redis.address}"}
    second = {"AI_INFRA_HOME": str(machine.root / "second"), "AI_INFRA_TMUX_SESSION": "second"}
    machine.ok("up", **shared)
    told = machine.fails("up", code=5, **shared, **second)
    assert "another installation" in told
    assert "redis.prefix" in told
    machine.ok("up", **shared, **second, AI_INFRA_REDIS_PREFIX="second:")
    machine.ok("task", "submit", "code", "--wait", "--", "true")
    machine.ok("down", **second)


@pytest.mark.parametrize(
    ("words", "said"), [("send code -", "nothing to say"), ("task import -", "stdin:1: ")]
)
def test_a_closed_stdin_is_an_empty_one(session: Installation, words: str, said: str) -> None:
    line = ["bash", "-c", f'"{PROGRAM}" {words} <&-']
    done = subprocess.run(line, env=session.env, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr.startswith(f"ai-infra: {said}")) == (2, True), done.stderr
