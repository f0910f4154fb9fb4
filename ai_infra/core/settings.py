"""Settings: one frozen value, read once at the rim and passed in.

Order, later wins, key by key: shipped `config/ai-infra.yaml`, `$AI_INFRA_HOME/config/ai-infra.yaml`, what
`ai-infra up` was started with (`run/overrides.json`), the environment (`AI_INFRA_TMUX_SOCKET` is
`tmux.socket`).
The meaning and unit of each key stand in the shipped file; here are the types and the limits.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_type_hints

from ai_infra.core import durable, ids
from ai_infra.core.errors import ConfigError
from ai_infra.core.home import Home
from ai_infra.core.shipped import shipped
from ai_infra.core.yamlfile import Located, load_yaml

FILE = "ai-infra.yaml"
OVERRIDES = "overrides.json"
MAX_RATE = 60_000.0  #: tasks a minute; the gate of an agent knows milliseconds
RESERVED = ("monitor", "logs", "redis", "up", "heal")  #: sidecars, and locks in run/ that are no process's


def _above(low: float) -> Any:
    return field(metadata={"low": low})


@dataclass(frozen=True, kw_only=True)
class TmuxSettings:
    """Which tmux server and session, and the size of windows nobody has attached to."""

    session: str
    socket: str
    width: int = _above(20)
    height: int = _above(5)


@dataclass(frozen=True, kw_only=True)
class RedisSettings:
    """Which Redis; an empty url means the embedded one."""

    url: str = field(repr=False, metadata={"secret": True})
    prefix: str


@dataclass(frozen=True, kw_only=True)
class SupervisorSettings:
    """Boot, heartbeats, restarts."""

    ready_timeout_s: float = _above(1)
    restart_delay_s: float = _above(0)
    restart_delay_max_s: float = _above(0)
    restart_limit: int = _above(1)
    restart_window_s: float = _above(1)
    heartbeat_s: float = _above(0.2)
    offline_s: float = _above(1)
    drain_s: float = _above(0)


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """Leases, the bounds of one attempt, and how long what has ended is kept."""

    lease_s: float = _above(1)
    grace_s: float = _above(0)
    output_max_bytes: int = _above(1024)
    temp_max_age_s: float = _above(0)
    keep_finished: int = _above(0)
    keep_finished_days: float = _above(0)
    keep_logs_days: float = _above(0)
    aging_s: float = _above(0)


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """Size of log files."""

    max_bytes: int = _above(10_000)


@dataclass(frozen=True, kw_only=True)
class AgentSettings:
    """One agent: what it is for, and the folders of its scratch workspace."""

    name: ids.AgentName
    description: str = ""
    folders: tuple[str, ...] = ()
    rate_per_minute: float = 0.0  #: it begins at most so many tasks a minute, evenly spaced; 0: no limit


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything in force for one command or process."""

    home: Home
    tmux: TmuxSettings
    redis: RedisSettings
    supervisor: SupervisorSettings
    tasks: TaskSettings
    logs: LogSettings
    agents: Mapping[str, AgentSettings]
    origins: Mapping[str, str]  #: "tmux.socket" → the file or variable that set it

    @property
    def embedded_redis(self) -> bool:
        """Whether Redis runs in a window of ours."""
        return not self.redis.url

    @property
    def redis_url(self) -> str:
        """Where to connect; holds a password if the user's url does."""
        return self.redis.url or str(self.home.redis_socket)


_SECTIONS: dict[str, type] = {
    "tmux": TmuxSettings,
    "redis": RedisSettings,
    "supervisor": SupervisorSettings,
    "tasks": TaskSettings,
    "logs": LogSettings,
}


def load_settings(home: Home, env: Mapping[str, str], *, own_files: bool = True) -> Settings:
    """Read and merge everything; raises ConfigError for the first thing that is wrong.

    `own_files=False` leaves out the user's files, for what must work while they are broken.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for path in _files(home, FILE, own_files):
        located = load_yaml(path)
        _check_table(located, _SECTIONS)
        for section in located.value:
            located.check_keys(_hints(section), section)
            for key, value in (located.at(section) or {}).items():
                values[f"{section}.{key}"] = _checked(
                    section, key, value, lambda m, s=section, k=key, f=located: f.error(m, s, k)
                )
                origins[f"{section}.{key}"] = f"{path}:{located.line(section, key)}"
    for source, texts in (("ai-infra up", _recorded(home)), ("environment", overrides_in(env))):
        for name, text in texts.items():
            section, key = name.split(".")
            values[name] = _from_text(section, key, text)
            origins[name] = f"{source} ({env_name(name)})"
    _check_session(values, origins)
    sections = {
        s: cls(**{f.name: values[f"{s}.{f.name}"] for f in dataclasses.fields(cls)})
        for s, cls in _SECTIONS.items()
    }
    return Settings(home=home, agents=load_agents(home, own_files), origins=origins, **sections)


def _check_session(values: Mapping[str, Any], origins: Mapping[str, str]) -> None:
    """tmux reads ':' and '.' in a session name as window and pane, so a name must be plain."""
    if not ids.is_name(values["tmux.session"]):
        raise ConfigError(
            f"{origins['tmux.session']}: tmux.session: {values['tmux.session']!r} is no session name; "
            "use small letters, digits, '-' and '_'"
        )
    if not values["tmux.socket"]:
        raise ConfigError(
            f"{origins['tmux.socket']}: tmux.socket: must not be empty; say 'default', a name or a path"
        )


def load_agents(home: Home, own_files: bool = True) -> dict[str, AgentSettings]:
    """The agents of `agents.yaml`, merged with the user's; raises ConfigError."""
    merged: dict[str, dict[str, Any]] = {}
    for path in _files(home, "agents.yaml", own_files):
        located = load_yaml(path)
        _check_table(located, ["agents"])
        for name, table in (located.at("agents") or {}).items():
            if not isinstance(name, str) or not ids.is_name(name):
                raise located.error("an agent's name is small letters, digits, '-' and '_'", "agents", name)
            if name in RESERVED:
                raise located.error(f"{name!r} is taken; call the agent otherwise", "agents", name)
            if not isinstance(table, dict):
                raise located.error(
                    "must be a table of description, folders and rate_per_minute", "agents", name
                )
            located.check_keys(["description", "folders", "rate_per_minute"], "agents", name)
            folders = table.get("folders", [])
            if not isinstance(folders, list) or not all(
                isinstance(f, str) and ids.is_name(f) for f in folders
            ):
                raise located.error("must be a list of plain folder names", "agents", name, "folders")
            if not isinstance(table.get("description", ""), str):
                raise located.error("must be text", "agents", name, "description")
            if not _is_rate(rate := table.get("rate_per_minute", 0)):
                words = f"must be 0 (no limit) or a number from 0.001 to {MAX_RATE:g}, not {rate!r:.40}"
                raise located.error(words, "agents", name, "rate_per_minute")
            merged.setdefault(name, {}).update(table)
    return {
        name: AgentSettings(
            name=ids.AgentName(name),
            description=table.get("description", ""),
            folders=tuple(table.get("folders", ())),
            rate_per_minute=float(table.get("rate_per_minute", 0)),
        )
        for name, table in merged.items()
    }


def _is_rate(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and (value == 0 or 0.001 <= value <= MAX_RATE)


def overrides_in(env: Mapping[str, str]) -> dict[str, str]:
    """The settings that the environment names: key → text."""
    return {name: env[env_name(name)] for name in known_keys() if env_name(name) in env}


def record_overrides(home: Home, env: Mapping[str, str], *, keep: bool) -> None:
    """Keep what `up` was started with, so that every window and later command sees the same.

    `keep`: the session is up already, so what an earlier `up` was started with still holds. A file of mode
    0600, since a Redis url may hold a password; never the environment of a window.
    """
    durable.write_json(home.run / OVERRIDES, {**(_recorded(home) if keep else {}), **overrides_in(env)})


def forget_overrides(home: Home) -> None:
    """The session is down: the next `up` begins from the files. Twice is safe."""
    (home.run / OVERRIDES).unlink(missing_ok=True)


def known_keys() -> list[str]:
    """Every settable key, as `section.key`."""
    return [f"{section}.{key}" for section in _SECTIONS for key in _hints(section)]


def is_secret(name: str) -> bool:
    """Whether a key's value may hold a password."""
    section, key = name.split(".")
    return any(f.name == key and f.metadata.get("secret") for f in dataclasses.fields(_SECTIONS[section]))


def env_name(name: str) -> str:
    """`tmux.socket` → `AI_INFRA_TMUX_SOCKET`."""
    return "AI_INFRA_" + name.upper().replace(".", "_")


def _recorded(home: Home) -> dict[str, str]:
    known = known_keys()
    found = durable.read_json(home.run / OVERRIDES) or {}
    return {name: str(text) for name, text in found.items() if name in known}


def _files(home: Home, name: str, own_files: bool) -> list[Path]:
    own = home.config / name
    return [shipped(f"config/{name}"), *([own] if own_files and own.exists() else [])]


def _check_table(located: Located, known: Any) -> None:
    if not isinstance(located.value, dict):
        raise located.error("must be a table of keys")
    located.check_keys(known)
    for key, value in located.value.items():
        if value is not None and not isinstance(value, dict):
            raise located.error("must be a table of keys", key)


def _hints(section: str) -> dict[str, type]:
    return get_type_hints(_SECTIONS[section])


def _checked(section: str, key: str, value: Any, error: Any) -> Any:
    """The value as its field's type; numbers below the field's floor are refused."""
    kind = _hints(section)[key]
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1e15:
        value = float(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        words = {str: "text", int: "a whole number", float: "a number"}
        shown = "a value that is not shown" if is_secret(f"{section}.{key}") else repr(value)[:100]
        raise error(f"must be {words[kind]}, not {shown}")
    low: float | None = next(
        f.metadata.get("low") for f in dataclasses.fields(_SECTIONS[section]) if f.name == key
    )
    if low is not None and not low <= cast(float, value) < math.inf:
        raise error(f"must be at least {low:g}, not {value!r}")
    return value


def _from_text(section: str, key: str, text: str) -> Any:
    def error(message: str) -> ConfigError:
        return ConfigError(f"{env_name(f'{section}.{key}')}: {message}")

    kind = _hints(section)[key]
    try:
        value = text if kind is str else cast(Any, kind)(text)
    except ValueError:
        value = text
    return _checked(section, key, value, error)
