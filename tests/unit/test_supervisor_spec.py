"""The session file: what is accepted, and how what is wrong is said."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ai_infra.core.errors import ConfigError
from ai_infra.core.home import Home
from ai_infra.core.settings import load_settings
from ai_infra.supervisor.spec import SessionSpec, load_session, session_file

NAME = "ai-infrastructure"
SUPERVISOR = "- {window_name: supervisor, window_shell: ai-infra run supervisor}\n"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def load(home: Home, text: str | None = None, **env: str) -> SessionSpec:
    """The session of a file with this text; the shipped one without."""
    if text is not None:
        path = home.config / "tmux" / "session.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return load_session(load_settings(home, env))


def windows(*more: str) -> str:
    return f"session_name: {NAME}\nwindows:\n" + "".join(
        ["  " + SUPERVISOR, *(f"  - {text}\n" for text in more)]
    )


def test_the_shipped_session(home: Home) -> None:
    spec = load(home)
    names = ["supervisor", "code", "data", "infra", "research", "qa", "monitor", "logs", "redis"]
    assert spec.names == names
    assert [window.index for window in spec.windows] == list(range(9))
    assert spec.name == NAME
    for window in spec.windows:
        assert window.options["@ai_infra_window"] == window.name
        assert window.options["remain-on-exit"] == "on"
        assert window.options["allow-rename"] == "off"


def test_no_window_for_redis_where_the_user_has_a_server(home: Home) -> None:
    spec = load(home, AI_INFRA_REDIS_URL="redis://elsewhere")
    assert "redis" not in spec.names
    assert len(spec.windows) == 8


def test_the_users_file_replaces_the_shipped_one(home: Home) -> None:
    text = windows("{window_name: qa, window_shell: ai-infra  run qa, panes: [null]}")
    assert load(home, text).names == ["supervisor", "qa"]
    assert session_file(load_settings(home, {})) == home.config / "tmux" / "session.yaml"


def test_the_settings_name_the_session(home: Home) -> None:
    assert load(home, windows(), AI_INFRA_TMUX_SESSION="mine").name == "mine"


def test_find(home: Home) -> None:
    spec = load(home)
    found = spec.find("qa")
    assert found is not None
    assert found.index == 5
    assert spec.find("cook") is None
    assert spec.find("q") is None


def test_options_are_words_of_tmux(home: Home) -> None:
    text = windows("{window_name: qa, window_shell: ai-infra run qa, options: {a: on, b: off, c: 5, d: '1'}}")
    found = load(home, text).find("qa")
    assert found is not None
    assert {name: found.options[name] for name in "abcd"} == {"a": "on", "b": "off", "c": "5", "d": "1"}


def test_what_we_know_our_own_by_does_not_depend_on_the_file(home: Home) -> None:
    text = windows("{window_name: qa, window_shell: ai-infra run qa, options: {remain-on-exit: off}}")
    spec = load(home, text)
    assert spec.options["@ai_infra"] == "1"
    for window in spec.windows:
        assert window.options["@ai_infra_window"] == window.name
        assert window.options["remain-on-exit"] == "on"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "1: windows: must be a list of windows"),
        ("- a\n", "1: must be a table with session_name and windows"),
        ("session_name: x\nwindows: []\n", "2: windows: must be a list of windows"),
        ("session_name: x\nwindows: {a: 1}\n", "2: windows: must be a list of windows"),
        ("session_name: x\nwindow: []\n", "2: window: unknown key; did you mean 'windows'?"),
        ("session_name: x\nplugins: []\n", "2: plugins: unknown key; known keys: session_name, options"),
        (windows("[]"), "4: windows.1: must be a table with window_name and window_shell"),
        (windows("{}"), "4: windows.1.window_name: no agent or sidecar None; there are supervisor"),
        (windows("{window_name: [qa]}"), "4: windows.1.window_name: no agent or sidecar ['qa']"),
        (windows("{window_name: qa}"), "4: windows.1.window_shell: must be 'ai-infra run qa'"),
        (
            windows("{window_name: qa, window_shell: ai-infra run code}"),
            "4: windows.1.window_shell: must be 'ai-infra run qa'",
        ),
        (
            windows("{window_name: qa, window_shell: 'ai-infra run qa; rm -rf /'}"),
            "4: windows.1.window_shell: must be 'ai-infra run qa'",
        ),
        (
            windows("{window_name: qa, window_shell: ai-infra run qa, options: [on]}"),
            "4: windows.1.options: must be a table of tmux options",
        ),
        (
            windows("{window_name: qa, window_shell: ai-infra run qa, layout: tiled}"),
            "4: windows.1.layout: unknown key; known keys: window_name",
        ),
        (
            windows("{window_name: supervisor, window_shell: ai-infra run supervisor}"),
            "4: windows.1.window_name: 'supervisor' stands twice (first on line 3)",
        ),
        (
            "session_name: ai-infrastructure\nwindows:\n- {window_name: qa, window_shell: ai-infra run qa}\n",
            "2: windows: a window named 'supervisor' is needed",
        ),
        ("session_name: x\nsession_name: y\n", "2: 'session_name' stands twice (first on line 1)"),
        (
            windows('{window_name: qa, window_shell: "ai-infra run \'qa"}'),
            "4: windows.1.window_shell: must be 'ai-infra run qa'",
        ),
        (
            windows("{window_name: qa, window_shell: ai-infra run qa, panes: [null, htop]}"),
            "4: windows.1.panes: a window has one pane",
        ),
        (
            windows().replace(NAME, "other"),
            f"1: session_name: is '{NAME}'; set tmux.session in ai-infra.yaml",
        ),
    ],
)
def test_what_is_wrong_is_named_by_file_line_and_key(home: Home, text: str, said: str) -> None:
    path = home.config / "tmux" / "session.yaml"
    with pytest.raises(ConfigError, match=re.escape(f"{path}:{said}")):
        load(home, text)
