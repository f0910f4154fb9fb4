"""What a listing of tmux says about our session, and what its processes may know. No tmux runs here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_infra.core.errors import SystemProblem
from ai_infra.core.ids import WindowName
from ai_infra.core.settings import TmuxSettings
from ai_infra.supervisor.environment import client_env, window_env
from ai_infra.supervisor.tmux import (
    _FIELDS,
    Absent,
    Foreign,
    Present,
    Sight,
    Tmux,
    sight_of,
    tmux_version,
)

SESSION = "ai-infrastructure"
HOME = Path("/srv/state")


def row(**changes: str) -> str:
    """One line as tmux prints it for a living pane of ours; `ai_infra…` stands for `@ai_infra…`."""
    values = {
        "session_name": SESSION,
        "session_id": "$3",
        "window_id": "@7",
        "pane_id": "%9",
        "pane_pid": "4242",
        "pane_dead": "0",
        "pane_dead_status": "",
        "pane_dead_signal": "",
        "@ai_infra": "1",
        "@ai_infra_home": str(HOME),
        "@ai_infra_window": "code",
    }
    values |= {f"@{name}" if name.startswith("ai_infra") else name: text for name, text in changes.items()}
    return "|".join(values[field] for field in _FIELDS)


def sight(*rows: str, home: Path = HOME) -> Sight:
    return sight_of("".join(f"{line}\n" for line in rows), SESSION, home)


def seen(*rows: str) -> Present:
    found = sight(*rows)
    assert isinstance(found, Present), found
    return found


# -- what is there ------------------------------------------------------------------------------------------


def test_a_living_pane() -> None:
    found = seen(row())
    assert (found.session_id, found.home) == ("$3", str(HOME))
    pane = found.panes[WindowName("code")]
    assert (pane.window, pane.window_id, pane.pane_id, pane.pid) == ("code", "@7", "%9", 4242)
    assert (pane.dead, pane.exit_status, pane.exit_signal) == (False, None, None)


@pytest.mark.parametrize(
    ("status", "number", "expected"),
    [("7", "", (7, None)), ("0", "", (0, None)), ("", "9", (None, 9)), ("", "", (None, None))],
)
def test_a_dead_pane_says_what_tmux_knows_of_its_end(
    status: str, number: str, expected: tuple[int | None, int | None]
) -> None:
    pane = seen(row(pane_dead="1", pane_dead_status=status, pane_dead_signal=number)).panes[
        WindowName("code")
    ]
    assert pane.dead
    assert (pane.exit_status, pane.exit_signal) == expected


def test_the_first_pane_of_a_window_counts() -> None:
    """A person may split a window of ours; the process is in the first pane."""
    found = seen(row(), row(pane_id="%10", pane_pid="5"), row(ai_infra_window="qa", pane_id="%11"))
    assert {name: pane.pane_id for name, pane in found.panes.items()} == {"code": "%9", "qa": "%11"}


def test_windows_that_are_not_ours_are_left_out() -> None:
    assert list(seen(row(ai_infra_window="", pane_id="%10"), row()).panes) == ["code"]
    assert dict(seen(row(ai_infra_window="")).panes) == {}


def test_a_session_that_tmuxp_made_has_no_home_yet() -> None:
    assert seen(row(ai_infra_home="")).home == ""


NEAR = [SESSION + "-notes", "my-" + SESSION, "ai", SESSION.upper(), "work"]


def test_other_sessions_are_not_looked_at() -> None:
    others = [
        row(session_name=name, session_id=f"$1{i}", ai_infra_home="", ai_infra_window="qa")
        for i, name in enumerate(NEAR)
    ]
    assert list(seen(*others, row(), *others).panes) == ["code"]
    assert sight(*others) == Absent()


def test_ours_is_known_by_its_mark_even_if_a_person_renamed_it() -> None:
    foreign = row(session_id="$8", ai_infra="", ai_infra_home="", ai_infra_window="")
    found = seen(foreign, row(session_name="mine"), foreign)
    assert (found.session_id, list(found.panes)) == ("$3", ["code"])


def test_a_session_of_another_installation_is_not_ours() -> None:
    other = row(session_name="theirs", session_id="$8", ai_infra_home="/srv/other", pane_pid="1")
    assert sight(other) == Absent()
    assert seen(other, row()).panes[WindowName("code")].pid == 4242
    taken = sight(row(ai_infra_home="/srv/other"))  # it has our name
    assert isinstance(taken, Present)
    assert taken.home == "/srv/other"


def test_a_session_of_our_name_without_our_mark_is_foreign() -> None:
    assert sight(row(ai_infra="", ai_infra_window="", ai_infra_home="")) == Foreign("$3")


def test_no_panes_mean_absent() -> None:
    assert sight() == sight("") == sight("", "") == Absent()


@pytest.mark.parametrize("home", ["/srv/a|b", "/srv/a b", "/srv/ü", "/srv/|", "/srv/a#b"])
def test_any_path_can_be_a_home(home: str) -> None:
    found = sight(row(ai_infra_home=home), home=Path(home))
    assert isinstance(found, Present)
    assert found.home == home


# -- what may not upset it ----------------------------------------------------------------------------------

JUNK = [SESSION, SESSION + "|", "|" * 9, "|" * 10, "|" * 99, "x|y", "no server running on /x"]


@pytest.mark.parametrize("junk", JUNK)
def test_garbage_rows_are_skipped(junk: str) -> None:
    assert list(seen(junk, row(), junk).panes) == ["code"]


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\n|")) | st.sampled_from([*JUNK, row()])))
def test_any_listing_has_an_answer(lines: list[str]) -> None:
    assert isinstance(sight(*lines), Present) == any(row() in text.splitlines() for text in lines)


@pytest.mark.parametrize("field", ["pane_pid", "pane_dead_status", "pane_dead_signal"])
def test_a_number_that_is_none_is_garbage_too(field: str) -> None:
    """A tmux built where signals have names says `kill`."""
    sight(row(**{field: "kill"}))


# -- environments -------------------------------------------------------------------------------------------

SHELL_OF_A_PERSON = {
    "HOME": "/home/me", "PATH": "/bin", "SHELL": "/bin/zsh", "TERM": "xterm", "TZ": "UTC", "USER": "me",
    "LOGNAME": "me", "LC_ALL": "C", "LC_CTYPE": "C", "ANTHROPIC_API_KEY": "secret", "AWS_SECRET": "x",
    "AI_INFRA_REDIS_URL": "redis://:secret@host", "SSH_AUTH_SOCK": "/tmp/agent", "LD_PRELOAD": "/tmp/x.so",
    "PYTHONPATH": "/tmp", "TMUX": "/tmp/tmux,1,2", "TMUX_PANE": "%1", "TMUX_TMPDIR": "/run/me",
    "NO_COLOR": "1", "CLAUDECODE": "1", "VIRTUAL_ENV": "/venv", "BASH_ENV": "/x", "AI_INFRA_TASK_ID": "t-1",
}  # fmt: skip
PLAIN = {"HOME", "PATH", "SHELL", "TERM", "TZ", "USER", "LOGNAME", "LC_ALL", "LC_CTYPE", "LANG"}


def test_a_window_knows_what_is_allowed_and_no_more() -> None:
    env = window_env(SHELL_OF_A_PERSON, Path("/srv/state"))
    assert set(env) == PLAIN | {"AI_INFRA_HOME"}
    assert {name: env[name] for name in PLAIN - {"LANG"}} == {
        name: SHELL_OF_A_PERSON[name] for name in PLAIN - {"LANG"}
    }


def test_a_client_brings_what_is_allowed_and_where_its_servers_are() -> None:
    env = client_env({**SHELL_OF_A_PERSON, "AI_INFRA_HOME": "/srv/state"})
    assert set(env) == PLAIN | {"AI_INFRA_HOME", "TMUX_TMPDIR"}


def test_text_is_utf_8_unless_a_person_says_otherwise() -> None:
    assert window_env({}, Path("/srv")) == {"LANG": "C.UTF-8", "AI_INFRA_HOME": "/srv"}
    assert client_env({}) == {"LANG": "C.UTF-8"}
    assert window_env({"LANG": "de_DE.UTF-8"}, Path("/srv"))["LANG"] == "de_DE.UTF-8"
    assert client_env({"LANG": "de_DE.UTF-8"})["LANG"] == "de_DE.UTF-8"


def test_the_home_of_a_window_is_the_installations_whatever_the_shell_says() -> None:
    assert window_env({"AI_INFRA_HOME": "/other"}, Path("/srv"))["AI_INFRA_HOME"] == "/srv"


@settings(deadline=None)
@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_no_other_variable_ever_reaches_a_window(env: dict[str, str]) -> None:
    assert set(window_env(env, Path("/srv"))) <= PLAIN | {"AI_INFRA_HOME"}


# -- the command line ---------------------------------------------------------------------------------------


def argv(socket: str, window_id: str | None = None, inside: bool = False) -> list[str]:
    tmux = Tmux(TmuxSettings(session=SESSION, socket=socket, width=80, height=24), HOME)
    return tmux.attach_argv("$3", window_id, inside=inside)


def test_which_server_is_meant() -> None:
    assert argv("default") == ["tmux", "attach-session", "-t", "$3"]
    assert argv("own")[:3] == ["tmux", "-L", "own"]
    assert argv("/run/x")[:3] == ["tmux", "-S", "/run/x"]
    assert argv("./x")[:3] == ["tmux", "-S", "./x"]


def test_attach_goes_to_a_window_and_from_inside_switches() -> None:
    assert argv("default", "@3")[1:5] == ["select-window", "-t", "@3", ";"]
    assert argv("default", inside=True)[1] == "switch-client"


@pytest.mark.parametrize(
    ("said", "version"),
    [("tmux 3.2", (3, 2)), ("tmux 3.3a", (3, 3)), ("tmux next-3.6", (3, 6)), ("tmux 3.10", (3, 10)),
     ("tmux master", (3, 2)), ("tmux 4.0", (4, 0))],
)  # fmt: skip
def test_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, version: tuple[int, int]
) -> None:
    stand_in(monkeypatch, tmp_path, said)
    assert tmux_version() == version


@pytest.mark.parametrize("said", ["tmux 3.1c", "tmux 2.9", "tmux 1.8"])
def test_old_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str) -> None:
    stand_in(monkeypatch, tmp_path, said)
    with pytest.raises(SystemProblem, match=re.escape(f"{said} is too old; ai-infra needs tmux 3.2")):
        tmux_version()


def test_no_tmux(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemProblem, match="apt-get install tmux"):
        tmux_version()


def test_a_tmux_that_may_not_be_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tmux").write_text("")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemProblem, match="tmux"):
        tmux_version()


def stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path, said: str) -> None:
    """A tmux that only tells its version."""
    (folder / "tmux").write_text(f"#!/bin/sh\necho {said}\n")
    (folder / "tmux").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
