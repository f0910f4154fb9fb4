"""The environment of a task's commands: what passes, what the task may choose, and what nobody may change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_infra.agents.attempt import task_env
from ai_infra.agents.scratch import Scratch
from ai_infra.core.home import Home
from ai_infra.core.ids import AgentName, TaskId, WorkerId, WorkflowId
from ai_infra.core.settings import AgentSettings
from ai_infra.tasks.task import Claim, State, TaskSpec

HOME = Home(Path("/srv/state"))
MARKS = {
    "AI_INFRA_HOME": "/srv/state",
    "AI_INFRA_AGENT": "code",
    "AI_INFRA_TASK_ID": "t-1",
    "AI_INFRA_TASK_NAME": "lint",
    "AI_INFRA_ATTEMPT": "2",
    "AI_INFRA_RESULT": "/srv/state/workspace/.agent-scratch/code/exchange/t-1/result.json",
}
OWN = {"PATH", "HOME", "TMPDIR", "GIT_TERMINAL_PROMPT"}


def env_of(
    base: Mapping[str, str] | None = None, env: Mapping[str, str] | None = None, workflow: str | None = None
) -> dict[str, str]:
    spec = TaskSpec(
        id=TaskId("t-1"),
        name="lint",
        agent=AgentName("code"),
        run=("true",),
        env=env or {},
        workflow=WorkflowId(workflow) if workflow else None,
    )
    claim = Claim(spec=spec, attempt=2, fence=1, worker=WorkerId("code.1"), state=State.IN_PROGRESS)
    scratch = Scratch(HOME, AgentSettings(name=AgentName("code")))
    return task_env(claim, HOME, scratch, base or {})


def test_the_whole_environment() -> None:
    assert env_of({"PATH": "/bin", "LANG": "C.UTF-8", "USER": "me", "TZ": "UTC"}) == {
        **MARKS,
        "LANG": "C.UTF-8",
        "USER": "me",
        "TZ": "UTC",
        "PATH": "/srv/state/run/bin:/bin",
        "HOME": "/srv/state/workspace/.agent-scratch/code",
        "TMPDIR": "/srv/state/workspace/.agent-scratch/code/temp",
        "GIT_TERMINAL_PROMPT": "0",
    }


@pytest.mark.parametrize("base", [{}, {"PATH": ""}])
def test_there_is_always_a_path(base: dict[str, str]) -> None:
    assert env_of(base)["PATH"].startswith("/srv/state/run/bin:/usr/local/sbin:")


@settings(deadline=None)
@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_nothing_else_of_the_agents_environment_passes(base: dict[str, str]) -> None:
    base |= {
        "ANTHROPIC_API_KEY": "secret",
        "SSH_AUTH_SOCK": "/x",
        "TMUX": "/x,1,2",
        "LD_PRELOAD": "x",
        "HOME": "/me",
    }
    allowed = {"LANG", "LC_ALL", "TZ", "USER", "LOGNAME"}
    assert set(env_of(base)) <= MARKS.keys() | OWN | allowed
    assert "/me" not in env_of(base).values()


def test_a_task_may_choose_its_own_variables() -> None:
    env = env_of(
        {"LANG": "C"}, {"LANG": "de_DE.UTF-8", "PATH": "/mine", "HOME": "/h", "TMPDIR": "/t", "KEY": "v"}
    )
    assert (env["LANG"], env["PATH"], env["HOME"], env["TMPDIR"], env["KEY"]) == (
        "de_DE.UTF-8", "/mine", "/h", "/t", "v",
    )  # fmt: skip


@pytest.mark.parametrize("name", MARKS)
def test_a_task_cannot_hide_its_marks(name: str) -> None:
    assert env_of(env=dict.fromkeys(MARKS, "forged"))[name] == MARKS[name]
    assert env_of(base=dict.fromkeys(MARKS, "forged"))[name] == MARKS[name]


def test_a_task_of_a_workflow_knows_its_folder_and_cannot_forge_it() -> None:
    forged = {"AI_INFRA_WORKFLOW_ID": "other", "AI_INFRA_WORKFLOW_DIR": "/etc"}
    env = env_of(env=forged, workflow="w-1")
    assert env["AI_INFRA_WORKFLOW_ID"] == "w-1"
    assert env["AI_INFRA_WORKFLOW_DIR"] == "/srv/state/workspace/workflows/w-1"
    assert "AI_INFRA_WORKFLOW_ID" not in env_of(base=forged)
