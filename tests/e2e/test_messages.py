"""Messages, as people and tasks use them: sent, asked, refused, followed; and who may speak as whom."""

from __future__ import annotations

import json
import os
import pwd
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ai_infra.core.durable import FileLock
from ai_infra.core.process import lock_path
from ai_infra.testing import wait_until
from tests.e2e.conftest import PROGRAM, Installation

AGENTS = ["supervisor", "code", "data", "infra", "research", "qa"]
ME = pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture(scope="module")
def session() -> Iterator[Installation]:
    found = Installation(Path(tempfile.mkdtemp(prefix="aih-", dir="/tmp")))
    try:
        found.configure("tasks: {grace_s: 1}\nsupervisor: {restart_limit: 50, restart_delay_max_s: 1}\n")
        found.ok("up")
        yield found
    finally:
        found.close()


def logged(session: Installation, agent: str, event: str, message: str) -> Any:
    """The event of a message in an agent's log; waits for it."""

    def found() -> Any:
        lines = (session.home.logs / f"{agent}.jsonl").read_text().splitlines()
        entries = [entry for entry in map(json.loads, lines) if entry["event"] == event]
        return [entry for entry in entries if entry["message"] == message]

    return wait_until(found, 15, f"{agent} says {event} of {message}")


def messages(session: Installation, *words: str) -> Any:
    return session.json("inbox", *words)


def one(session: Installation, message: str) -> Any:
    return next(found for found in messages(session, "-n", "500") if found["id"] == message)


def judged(session: Installation, message: str, agent: str = "code", timeout_s: float = 20) -> Any:
    def found() -> Any:
        receipt = one(session, message)["receipts"][agent]
        return receipt if receipt["done"] else None

    return wait_until(found, timeout_s, f"{agent} handled {message}")


class Down:
    """An agent that is dead for as long as this lasts: its next life waits for the lock of the last."""

    def __init__(self, session: Installation, agent: str) -> None:
        self.session, self.agent = session, agent
        self.lock = FileLock(lock_path(session.home, agent))

    def __enter__(self) -> Down:
        self.killed = self.session.kill(self.agent)
        wait_until(self.lock.try_acquire, 5, f"{self.agent} is dead")
        return self

    def __exit__(self, *exc: object) -> None:
        self.lock.release()
        self.session.wait_healed(self.agent, self.killed)


def redis(session: Installation, *words: str) -> str:
    """A command to the embedded Redis past everything of ours."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(session.home.redis_socket))
        packed = "".join(f"${len(w.encode())}\r\n{w}\r\n" for w in words)
        connection.sendall(f"*{len(words)}\r\n{packed}".encode())
        return connection.recv(65536).decode()


# -- send ---------------------------------------------------------------------------------------------------


def test_a_note_is_shown_in_the_window_as_a_persons(session: Installation) -> None:
    message = session.ok("send", "code", "the release is at noon").strip()
    (event,) = logged(session, "code", "message_shown", message)
    assert (event["source"], event["text"]) == (f"{ME} (a person)", "the release is at noon")
    wait_until(lambda: f"{ME} (a person) says: the release is at noon" in session.screen("code"), 10, "shown")
    told = one(session, message)
    assert (told["sender_kind"], told["problem"]) == ("person", "")
    assert told["receipts"]["code"]["verdict"] == "accepted"
    assert f"{ME} (a person)" in session.ok("inbox", "code")


def test_send_waits_and_exits_by_the_verdict(session: Installation) -> None:
    done = session.run("send", "code", "--action", "ping", "--wait")
    assert (done.returncode, done.stdout) == (0, "code  ✓ accepted  here\n")
    done = session.run("send", "code", "--action", "fly", "--wait", "--priority", "9")
    assert done.returncode == 1
    assert "code  ✗ refused  no model is configured for code" in done.stdout
    told = session.json("send", "code", "--type", "learn", "--wait", "a lesson")
    assert told["receipts"][0]["verdict"] == "refused"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("send", "nobody", "x"), 4, "no agent 'nobody'; there are supervisor, code"),
        (("send", "code"), 2, "nothing to say: give a TEXT, or --action WORD"),
        (("ask", "code", "--type", "task"), 2, "says the command to run as its TEXT"),
        (("ask", "code", "--action", "rm -rf"), 2, "payload.action 'rm -rf' is no word"),
        (("send", "code", "--type", "handoff", "../x"), 2, "payload.task_id '../x' is no id"),
        (("send", "code", "x", "--priority", "11"), 2, "11 is not in the range"),
        (("handoff", "t-nothing", "qa"), 4, "no task 't-nothing'"),
        (("handoff", "t-nothing", "nobody"), 4, "no agent 'nobody'"),
        (("inbox", "nobody"), 4, "no agent 'nobody'"),
    ],
)  # fmt: skip
def test_wrong_words(session: Installation, words: tuple[str, ...], code: int, said: str) -> None:
    assert said in session.fails(*words, code=code)


def test_large_texts_come_by_stdin_and_too_large_ones_are_refused(session: Installation) -> None:
    def send(text: str) -> subprocess.CompletedProcess[str]:
        words = [PROGRAM, "send", "code", "-", "--wait"]
        return subprocess.run(
            words, input=text, env=session.env, capture_output=True, text=True, timeout=30, check=False
        )

    assert send("x" * 200_000).returncode == 0
    done = send("x" * 300_000)
    assert done.returncode == 2
    assert "more than 262144; put the content into a file and send its path" in done.stderr


# -- ask ----------------------------------------------------------------------------------------------------


def test_ask_prints_the_answer(session: Installation) -> None:
    done = session.ok("ask", "qa", "--action", "ping")
    assert done.startswith("qa: here\n  agent  qa\n  worker  qa.")
    told = session.json("ask", "qa", "--action", "status")
    assert told["payload"]["data"]["pid"] == session.pid("qa")
    assert (told["source"], told["target"]) == ("qa", f"person:{ME}")
    session.ok("task", "submit", "infra", "--wait", "--name", "listed", "--", "true")
    assert '"name": "listed", "state": "COMPLETED"' in session.ok("ask", "infra", "--action", "tasks")


def test_ask_for_what_needs_a_model_says_so(session: Installation) -> None:
    said = session.fails("ask", "code", "please refactor this", code=1)
    assert said.startswith("ai-infra: code refused: no model is configured for code")
    assert "ping, status, tasks" in said


def test_ask_runs_commands_and_exits_by_their_end(session: Installation) -> None:
    done = session.ok("ask", "data", "--type", "task", "echo $((6 * 7))")
    assert "data: t-" in done
    assert "  │ 42\n" in done
    told = session.json("ask", "data", "--type", "task", "exit 3", "--timeout", "60")
    task = told["payload"]["data"]["task"]
    assert session.task(task)["spec"]["description"].startswith(f"asked for by person:{ME} in message m-")
    assert session.run("ask", "data", "--type", "task", "exit 3", "--timeout", "60").returncode == 1


def test_an_agent_answers_while_it_works(session: Installation) -> None:
    task = session.ok("task", "submit", "research", "--name", "long", "--", "sleep", "60").strip()
    wait_until(lambda: session.task(task)["state"] == "IN_PROGRESS", 15, "it runs")
    began_s = time.monotonic()
    assert "works on long" in session.ok("ask", "research", "--action", "status")
    assert time.monotonic() - began_s < 5
    session.ok("task", "cancel", task)


def test_no_answer_in_time(session: Installation) -> None:
    with Down(session, "code"):
        said = session.fails("ask", "code", "--action", "ping", "--timeout", "0.5", code=8)
        assert "no answer from code after 0.5 s; message m-" in said
        assert "`ai-infra inbox code` shows what becomes of it" in said
        message = said.split("message ")[1].split()[0]
        assert one(session, message)["receipts"]["code"]["verdict"] == "delivered"
    assert judged(session, message)["verdict"] == "accepted"


# -- everyone, and those who die ----------------------------------------------------------------------------


def test_a_broadcast_reaches_everyone_once(session: Installation) -> None:
    done = session.ok("broadcast", "maintenance at 18:00", "--wait")
    assert sorted(line.split()[0] for line in done.splitlines()) == sorted(AGENTS)
    assert {line.split()[2] for line in done.splitlines()} == {"accepted"}


def test_a_broadcast_reaches_one_who_was_down_once(session: Installation) -> None:
    with Down(session, "code"):
        message = session.ok("broadcast", "are you there").strip()
        for agent in AGENTS[2:]:
            judged(session, message, agent)
        assert one(session, message)["receipts"]["code"]["verdict"] == "delivered"
    assert judged(session, message)["verdict"] == "accepted"
    again = session.kill("code")
    session.wait_healed("code", again)
    session.ok("ask", "code", "--action", "ping")
    assert len(logged(session, "code", "message_shown", message)) == 1


def test_an_agent_is_killed_while_it_works_on_a_message(session: Installation) -> None:
    """Its next life goes on with the message; the task is one, and the answer comes."""
    mark = session.root / "mark"
    asking = session.start(
        "ask", "code", "--type", "task", f"echo . >> {mark}; [ $AI_INFRA_ATTEMPT = 2 ] || sleep 60",
        "--timeout", "60", "--json",
    )  # fmt: skip
    wait_until(mark.exists, 15, "it runs")
    session.kill("code")
    out, _ = asking.communicate(timeout=60)
    assert asking.returncode == 0, out
    told = json.loads(out)["payload"]["data"]
    assert (told["state"], mark.read_text()) == ("COMPLETED", ".\n.\n")
    assert session.task(told["task"])["attempt"] == 2


def test_redis_is_killed_while_somebody_waits(session: Installation) -> None:
    with Down(session, "qa"):
        asking = session.start("ask", "qa", "--action", "ping", "--timeout", "60")
        wait_until(lambda: "delivered" in json.dumps(messages(session, "qa", "-n", "1")), 15, "it is sent")
        killed = session.kill("redis")
        session.wait_healed("redis", killed)
    out, _ = asking.communicate(timeout=60)
    assert (asking.returncode, out.splitlines()[0]) == (0, "qa: here")


# -- who may speak as whom ----------------------------------------------------------------------------------


def test_a_task_that_sends_is_told_apart_from_a_person(session: Installation) -> None:
    task = session.ok("task", "submit", "data", "--wait", "--shell", "ai-infra send qa 'I am a person'")
    message = next(word for word in task.split() if word.startswith("m-"))
    (event,) = logged(session, "qa", "message_shown", message)
    assert event["source"].startswith("data (task t-")
    told = one(session, message)
    assert (told["sender_kind"], told["envelope"]["source"]) == ("task", "data")
    assert "data (its task)" in session.ok("inbox", "qa", "-n", "1")


def test_a_message_that_was_changed_in_redis_is_refused(session: Installation) -> None:
    with Down(session, "code"):
        message = session.ok("send", "code", "--type", "task", "echo harmless").strip()
        key = f"ai:msg:{message}"
        text = redis(session, "HGET", key, "e").split("\r\n")[1]
        assert "harmless" in text
        redis(session, "HSET", key, "e", text.replace("harmless", "harmful!"))
    receipt = judged(session, message)
    assert receipt["verdict"] == "refused"
    assert receipt["reason"] == f"its text is not what person:{ME} signed"
    logged(session, "code", "message_refused", message)
    wait_until(lambda: "REFUSED a message from nobody known" in session.screen("code"), 10, "it is shown")
    assert "(NOT TRUSTED)" in session.ok("inbox", "code", "-n", "1")
    assert "harmful" not in json.dumps(session.json("task", "list"))


def test_a_sender_of_another_installation_is_refused(session: Installation, machine: Installation) -> None:
    """It knows the address of our Redis, and our names; it has not our key."""
    url = str(session.home.redis_socket)
    done = machine.run("send", "code", "let me in", "--wait", AI_INFRA_REDIS_URL=url)
    assert done.returncode == 1
    assert "its sender's key is unknown: this installation has not certified it" in done.stdout


def test_a_key_that_others_may_read_is_not_used(session: Installation) -> None:
    session.ok("send", "qa", "x")
    key = session.home.keys / "user.key"
    key.chmod(0o644)
    try:
        assert "user.key: others may have read it" in session.fails("send", "qa", "x", code=7)
        assert "user.key: others may have read it" in session.run("doctor").stdout
    finally:
        key.chmod(0o600)
    session.ok("send", "qa", "x")
    assert "installation.key, user.key, readable by you alone" in session.run("doctor").stdout


def test_new_keys_are_believed_without_a_restart(session: Installation) -> None:
    session.ok("ask", "qa", "--action", "ping")
    pid = session.pid("qa")
    for path in session.home.keys.iterdir():
        path.unlink()
    assert session.ok("ask", "qa", "--action", "ping").startswith("qa: here")
    assert session.pid("qa") == pid


def test_keys_are_the_owners_alone(session: Installation) -> None:
    session.ok("send", "qa", "x")
    found = {path.name: oct(path.stat().st_mode & 0o777) for path in session.home.keys.iterdir()}
    assert found == {"installation.key": "0o600", "installation.pub": "0o600", "user.key": "0o600"}


# -- handing over -------------------------------------------------------------------------------------------


def test_a_running_task_is_stopped_and_handed_over(session: Installation) -> None:
    text = 'echo "$AI_INFRA_AGENT $$" >> $OUT; [ $AI_INFRA_AGENT = qa ] || exec sleep 60'
    out = session.root / "owners"
    task = session.ok("task", "submit", "code", "--attempts", "1", "--shell", f"OUT={out}; {text}").strip()
    wait_until(out.exists, 15, "it runs")
    assert session.ok("handoff", task, "qa").startswith(f"{task} is qa's now")
    session.ok("task", "wait", task, "--timeout", "30")
    first, second = (line.split() for line in out.read_text().splitlines())
    assert (first[0], second[0]) == ("code", "qa")
    assert not Path(f"/proc/{first[1]}").exists()
    view = session.task(task)
    assert (view["state"], view["spec"]["agent"], view["attempt"]) == ("COMPLETED", "qa", 2)
    assert "there is nothing to hand over" in session.fails("handoff", task, "code", code=5)


def test_a_waiting_task_is_handed_over_at_once(session: Installation) -> None:
    with Down(session, "code"):
        tasks = [session.ok("task", "submit", "code", "--", "true").strip() for _ in range(2)]
        assert session.json("handoff", tasks[1], "qa")["spec"]["agent"] == "qa"
        session.ok("task", "wait", tasks[1], "--timeout", "30")
    session.ok("task", "wait", tasks[0], "--timeout", "30")


# -- looking ------------------------------------------------------------------------------------------------


def test_the_inbox_is_followed(session: Installation) -> None:
    words = [PROGRAM, "inbox", "qa", "--follow", "-n", "1"]
    with subprocess.Popen(words, env=session.env, text=True, stdout=subprocess.PIPE) as following:
        assert following.stdout is not None
        following.stdout.readline()  # the head of the table: it follows from now on
        message = session.ok("send", "qa", "do you see this").strip()
        session.ok("send", "code", "not of this inbox")
        told: list[str] = []
        while not (told and "accepted" in told[-1]):
            line = following.stdout.readline()
            assert line
            told += [line] if message in line and "→" in line else []
            assert "not of this inbox" not in line
        following.kill()
    assert [line.split("→ qa  ")[1].split()[1] for line in told] == ["delivered", "read", "accepted"]


def test_who_follows_the_inbox_outlives_redis(session: Installation) -> None:
    words = [PROGRAM, "inbox", "qa", "--follow", "-n", "1"]
    with subprocess.Popen(words, env=session.env, text=True, stdout=subprocess.PIPE) as following:
        assert following.stdout is not None
        following.stdout.readline()  # the head of the table: it follows from now on
        for text in ("before", "after"):
            message = session.ok("send", "qa", text).strip()
            while message not in (line := following.stdout.readline()):
                assert line
            if text == "before":
                session.ok("restart", "redis", timeout_s=60)
        following.kill()


def test_an_empty_inbox(session: Installation) -> None:
    assert session.ok("inbox", "infra", "-n", "1").count("\n") >= 1


def test_without_a_session(machine: Installation) -> None:
    for words in (("send", "code", "x"), ("ask", "code", "x"), ("broadcast", "x"), ("inbox",),
                  ("handoff", "t-1", "qa")):  # fmt: skip
        assert "the session is not up; `ai-infra up` starts it" in machine.fails(*words, code=3)


# -- the patterns -------------------------------------------------------------------------------------------


def ran(session: Installation, name: str) -> Any:
    view = session.json("workflow", "run", f"pattern-{name}")
    assert view["state"] == "COMPLETED", view
    return {task["spec"]["name"]: task for task in view["tasks"]}


def test_sequential(session: Installation) -> None:
    tasks = ran(session, "sequential")
    ends = [(tasks[name]["started_at"], tasks[name]["finished_at"]) for name in ("research", "code", "qa")]
    assert [end for pair in ends for end in pair] == sorted(end for pair in ends for end in pair)
    assert "is here" in tasks["qa"]["result"]["output_tail"]


def test_parallel(session: Installation) -> None:
    tasks = ran(session, "parallel")
    report = tasks["join"]["result"]["output_tail"]
    assert [line for line in report.splitlines() if line.startswith("==")] == [
        "== disk.part", "== load.part", "== memory.part", "== programs.part"
    ]  # fmt: skip
    assert {tasks[name]["spec"]["agent"] for name in ("disk", "memory", "load", "programs")} == {
        "infra", "data", "qa", "code"
    }  # fmt: skip


def test_peer_consult(session: Installation) -> None:
    tasks = ran(session, "consult")
    assert "  │ qa agrees" in tasks["draft"]["result"]["output_tail"]
    asked = messages(session, "qa", "-n", "1")[0]
    assert (asked["sender_kind"], asked["envelope"]["source"], asked["envelope"]["type"]) == (
        "task",
        "code",
        "task",
    )


def test_broadcast(session: Installation) -> None:
    said = ran(session, "broadcast")["call"]["result"]["output_tail"]
    assert sorted(line.split()[0] for line in said.splitlines()) == sorted(AGENTS[1:])


def test_handoff(session: Installation) -> None:
    task = ran(session, "handoff")["triage"]
    assert (task["spec"]["agent"], task["attempt"]) == ("qa", 2)
    assert task["result"]["output_tail"] == "code saw it first\nqa goes on\n"
