"""The session as it should be: read from `tmux/session.yaml`, in tmuxp's format.

Only the part of the format that means something here is accepted, so that no key is silently ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ai_infra.core import ids
from ai_infra.core.settings import Settings
from ai_infra.core.shipped import shipped
from ai_infra.core.yamlfile import Located, load_yaml

DEFAULT_SESSION = "ai-infrastructure"  #: what the shipped file says, for tmuxp; tmux.session decides for us
SIDECARS = ("monitor", "logs", "redis")
_SESSION_KEYS = ("session_name", "options", "windows")
_WINDOW_KEYS = ("window_name", "window_shell", "options", "panes")


@dataclass(frozen=True, kw_only=True)
class WindowSpec:
    """One window: the process in it is `ai-infra run NAME`."""

    name: ids.WindowName
    index: int
    options: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class SessionSpec:
    """The session's name, its options, and its windows by index."""

    name: str
    options: Mapping[str, str]
    windows: tuple[WindowSpec, ...]

    @property
    def names(self) -> list[ids.WindowName]:
        """Window names in order."""
        return [window.name for window in self.windows]

    def find(self, name: str) -> WindowSpec | None:
        """The window of that name, or None."""
        return next((window for window in self.windows if window.name == name), None)


def session_file(settings: Settings) -> Path:
    """The user's session file if there is one, else the shipped one."""
    own = settings.home.config / "tmux" / "session.yaml"
    return own if own.exists() else shipped("config/tmux/session.yaml")


def load_session(settings: Settings, path: Path | None = None) -> SessionSpec:
    """Read and check the session file (`path`, if given); raises ConfigError with file, line and key."""
    located = load_yaml(path or session_file(settings))
    if not isinstance(located.value, dict):
        raise located.error("must be a table with session_name and windows")
    located.check_keys(_SESSION_KEYS)
    windows = located.at("windows")
    if not isinstance(windows, list) or not windows:
        raise located.error("must be a list of windows", "windows")
    name = located.at("session_name")
    if name not in (None, settings.tmux.session, DEFAULT_SESSION):
        raise located.error(
            f"is {settings.tmux.session!r}; set tmux.session in ai-infra.yaml", "session_name"
        )
    found = [_window(located, i, settings) for i in range(len(windows))]
    _check_names(located, found)
    wanted = [w for w in found if w.name != "redis" or settings.embedded_redis]
    return SessionSpec(
        name=settings.tmux.session,
        options={**_options(located, "options"), "@ai_infra": "1"},
        windows=tuple(wanted),
    )


def _window(located: Located, i: int, settings: Settings) -> WindowSpec:
    if not isinstance(located.at("windows", i), dict):
        raise located.error("must be a table with window_name and window_shell", "windows", i)
    located.check_keys(_WINDOW_KEYS, "windows", i)
    name = located.at("windows", i, "window_name")
    known = [*settings.agents, *SIDECARS]
    if name not in known:
        raise located.error(
            f"no agent or sidecar {name!r}; there are {', '.join(known)}", "windows", i, "window_name"
        )
    shell = located.at("windows", i, "window_shell")
    if not isinstance(shell, str) or shell.split() != ["ai-infra", "run", name]:
        raise located.error(f"must be 'ai-infra run {name}'", "windows", i, "window_shell")
    if located.at("windows", i, "panes") not in (None, [None]):
        raise located.error("a window has one pane, the process; leave this out", "windows", i, "panes")
    # What we know our own by does not depend on the file.
    options = {**_options(located, "windows", i, "options"), "@ai_infra_window": name, "remain-on-exit": "on"}
    return WindowSpec(name=ids.WindowName(name), index=i, options=options)


def _options(located: Located, *key: str | int) -> dict[str, str]:
    table = located.at(*key)
    if not isinstance(table, dict | None):
        raise located.error("must be a table of tmux options", *key)
    return {str(name): _option_text(value) for name, value in (table or {}).items()}


def _option_text(value: object) -> str:
    """YAML reads a bare `on` as true; tmux wants the word."""
    return {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _check_names(located: Located, windows: list[WindowSpec]) -> None:
    seen: dict[str, int] = {}
    for i, window in enumerate(windows):
        if window.name in seen:
            first = located.line("windows", seen[window.name], "window_name")
            raise located.error(
                f"{window.name!r} stands twice (first on line {first})", "windows", i, "window_name"
            )
        seen[window.name] = i
    if "supervisor" not in seen:
        raise located.error("a window named 'supervisor' is needed", "windows")
