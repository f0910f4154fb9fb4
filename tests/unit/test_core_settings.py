"""Settings: who wins, what is refused and in which words, what is secret, what `up` hands on."""

from __future__ import annotations

import dataclasses
import re
import stat
from pathlib import Path

import pytest

from ai_infra.core import settings as room
from ai_infra.core.durable import write_json
from ai_infra.core.errors import ConfigError
from ai_infra.core.home import Home
from ai_infra.core.settings import (
    Settings,
    env_name,
    forget_overrides,
    is_secret,
    known_keys,
    load_settings,
    overrides_in,
    record_overrides,
)

SHIPPED = Path(__file__).parents[2] / "config"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = Home(tmp_path)
    found.config.mkdir()
    found.run.mkdir()
    return found


def configure(home: Home, text: str, name: str = "ai-infra.yaml") -> Path:
    (home.config / name).write_text(text)
    return home.config / name


def refused(home: Home, **env: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(home, env)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def value_of(settings: Settings, name: str) -> object:
    section, key = name.split(".")
    return getattr(getattr(settings, section), key)


# -- the shipped file ---------------------------------------------------------------------------------------


def test_the_shipped_file_has_every_key_and_no_other(home: Home) -> None:
    settings = load_settings(home, {})
    assert set(settings.origins) == set(known_keys())
    assert all(origin.startswith(f"{SHIPPED}/ai-infra.yaml:") for origin in settings.origins.values())


def test_defaults(home: Home) -> None:
    settings = load_settings(home, {})
    assert (settings.tmux.session, settings.tmux.socket) == ("ai-infrastructure", "default")
    assert (settings.supervisor.restart_limit, settings.supervisor.restart_window_s) == (5, 300.0)
    assert settings.embedded_redis
    assert settings.redis_url == str(home.redis_socket)
    assert list(settings.agents) == ["supervisor", "code", "data", "infra", "research", "qa"]
    assert settings.agents["code"].folders == ("git-worktrees",)


def test_every_value_has_its_type(home: Home) -> None:
    settings = load_settings(home, {})
    for section in (settings.tmux, settings.redis, settings.supervisor, settings.tasks, settings.logs):
        for field in dataclasses.fields(section):
            assert type(getattr(section, field.name)).__name__ == field.type


# -- who wins -----------------------------------------------------------------------------------------------


def test_later_wins_key_by_key(home: Home) -> None:
    file = configure(home, "tasks:\n  lease_s: 11\n  grace_s: 12\n  temp_max_age_s: 13\n")
    write_json(home.run / "overrides.json", {"tasks.grace_s": "22", "tasks.temp_max_age_s": "23"})
    settings = load_settings(home, {"AI_INFRA_TASKS_TEMP_MAX_AGE_S": "33"})
    assert (settings.tasks.lease_s, settings.tasks.grace_s, settings.tasks.temp_max_age_s) == (11, 22, 33)
    assert settings.tasks.output_max_bytes == 67108864
    origins = {name: settings.origins[f"tasks.{name}"] for name in ("lease_s", "grace_s", "temp_max_age_s")}
    assert origins == {
        "lease_s": f"{file}:2",
        "grace_s": "ai-infra up (AI_INFRA_TASKS_GRACE_S)",
        "temp_max_age_s": "environment (AI_INFRA_TASKS_TEMP_MAX_AGE_S)",
    }


@pytest.mark.parametrize("text", ["", "tasks:\n", "# nothing\n", "tasks: {}\n", "tasks: ~\n"])
def test_an_empty_file_or_section_changes_nothing(home: Home, text: str) -> None:
    configure(home, text)
    assert load_settings(home, {}).tasks == load_settings(Home(home.root / "other"), {}).tasks


def test_every_key_can_be_set_by_the_environment(home: Home) -> None:
    sample = {"str": "x", "int": "20000", "float": "77.5"}
    for section, kind in room._SECTIONS.items():
        for field in dataclasses.fields(kind):
            name = f"{section}.{field.name}"
            settings = load_settings(home, {env_name(name): sample[str(field.type)]})
            assert str(value_of(settings, name)) in (sample[str(field.type)], "20000.0")
            assert settings.origins[name] == f"environment ({env_name(name)})"


def test_names_of_variables() -> None:
    assert env_name("tmux.socket") == "AI_INFRA_TMUX_SOCKET"
    assert env_name("supervisor.restart_delay_max_s") == "AI_INFRA_SUPERVISOR_RESTART_DELAY_MAX_S"
    assert len({env_name(name) for name in known_keys()}) == len(known_keys())
    assert {"AI_INFRA_HOME", "AI_INFRA_AGENT", "AI_INFRA_TASK_ID"}.isdisjoint(map(env_name, known_keys()))


def test_other_variables_are_left_alone(home: Home) -> None:
    assert load_settings(home, {"AI_INFRA_TASK_ID": "t", "AI_INFRA_TMUX": "x", "ai_infra_tmux_socket": "x"})


# -- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n", "1: must be a table of keys"),
        ("text\n", "1: must be a table of keys"),
        ("tmux: x\n", "1: tmux: must be a table of keys"),
        ("tmux: [a]\n", "1: tmux: must be a table of keys"),
        ("tmux: 0\n", "1: tmux: must be a table of keys"),
        ("tmx: {}\n", "1: tmx: unknown key; did you mean 'tmux'?"),
        ("5: {}\n", "1: 5: unknown key; known keys: tmux, redis, supervisor, tasks, logs"),
        ("tmux:\n  sokcet: x\n", "2: tmux.sokcet: unknown key; did you mean 'socket'?"),
        ("tmux:\n  socket: 5\n", "2: tmux.socket: must be text, not 5"),
        ("tmux:\n  socket:\n", "2: tmux.socket: must be text, not None"),
        ("tmux:\n  socket: [a]\n", "2: tmux.socket: must be text, not ['a']"),
        ("tmux:\n  socket: on\n", "2: tmux.socket: must be text, not True"),
        ("tmux:\n  socket: 2024-01-01\n", "2: tmux.socket: must be text, not datetime.date(2024, 1, 1)"),
        ("tmux:\n  socket: ''\n", "2: tmux.socket: must not be empty; say 'default', a name or a path"),
        ("tmux:\n  session: a.b\n", "2: tmux.session: 'a.b' is no session name"),
        ("tmux:\n  session: ''\n", "2: tmux.session: '' is no session name"),
        ("tmux:\n  width: 80.5\n", "2: tmux.width: must be a whole number, not 80.5"),
        ("tmux:\n  width: '80'\n", "2: tmux.width: must be a whole number, not '80'"),
        ("tmux:\n  width: yes\n", "2: tmux.width: must be a whole number, not True"),
        ("tmux:\n  width: 19\n", "2: tmux.width: must be at least 20, not 19"),
        ("tmux:\n  width: .inf\n", "2: tmux.width: must be a whole number, not inf"),
        ("tasks:\n  lease_s: soon\n", "2: tasks.lease_s: must be a number, not 'soon'"),
        ("tasks:\n  lease_s: '5'\n", "2: tasks.lease_s: must be a number, not '5'"),
        ("tasks:\n  lease_s: no\n", "2: tasks.lease_s: must be a number, not False"),
        ("tasks:\n  lease_s: 0.99\n", "2: tasks.lease_s: must be at least 1, not 0.99"),
        ("tasks:\n  lease_s: .nan\n", "2: tasks.lease_s: must be at least 1, not nan"),
        ("tasks:\n  lease_s: .inf\n", "2: tasks.lease_s: must be at least 1, not inf"),
        ("tasks:\n  lease_s: -.inf\n", "2: tasks.lease_s: must be at least 1, not -inf"),
        ("tasks:\n  grace_s: -0.1\n", "2: tasks.grace_s: must be at least 0, not -0.1"),
        pytest.param(
            f"tasks:\n  lease_s: {'9' * 400}\n",
            "2: tasks.lease_s: must be",
            marks=(),
        ),
    ],
)
def test_what_is_wrong_in_the_file(home: Home, text: str, said: str) -> None:
    file = configure(home, text)
    assert refused(home).startswith(f"{file}:{said}")


@pytest.mark.parametrize("text", ["soon", "", "nan", "inf", "-inf", "1e999", "-1", "0x10", "5 s", "1,5"])
def test_what_is_wrong_in_the_environment(home: Home, text: str) -> None:
    assert refused(home, AI_INFRA_TASKS_LEASE_S=text).startswith("AI_INFRA_TASKS_LEASE_S: must be ")


@pytest.mark.parametrize("text", ["80.0", "", "nan", "1e3", "True", "9" * 5000])
def test_a_whole_number_in_the_environment(home: Home, text: str) -> None:
    assert refused(home, AI_INFRA_TMUX_WIDTH=text).startswith("AI_INFRA_TMUX_WIDTH: must be a whole number")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("AI_INFRA_TMUX_SESSION", "a b", "'a b' is no session name"),
        ("AI_INFRA_TMUX_SESSION", "=x", "'=x' is no session name"),
        ("AI_INFRA_TMUX_SOCKET", "", "must not be empty"),
    ],
)
def test_wrong_words_in_the_environment(home: Home, name: str, text: str, said: str) -> None:
    assert f"environment ({name}): " in refused(home, **{name: text})
    assert said in refused(home, **{name: text})


def test_whole_numbers_are_good_where_fractions_are(home: Home) -> None:
    configure(home, "tasks: {lease_s: 7}\n")
    lease_s = load_settings(home, {}).tasks.lease_s
    assert (lease_s, type(lease_s)) == (7.0, float)


# -- agents -------------------------------------------------------------------------------------------------


def test_agents_are_merged_key_by_key(home: Home) -> None:
    configure(
        home,
        "agents:\n  code: {description: mine}\n  ops: {folders: [a-b, c_d], rate_per_minute: 90}\n",
        "agents.yaml",
    )
    agents = load_settings(home, {}).agents
    assert (agents["code"].rate_per_minute, agents["ops"].rate_per_minute) == (0.0, 90.0)
    assert (agents["code"].description, agents["code"].folders) == ("mine", ("git-worktrees",))
    assert (agents["ops"].name, agents["ops"].description, agents["ops"].folders) == (
        "ops",
        "",
        ("a-b", "c_d"),
    )
    assert list(agents)[-1] == "ops"


RESERVED = ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("agent: {}\n", "1: agent: unknown key; did you mean 'agents'?"),
        ("agents: [code]\n", "1: agents: must be a table of keys"),
        ("agents:\n  Code: {}\n", "2: agents.Code: an agent's name is small letters"),
        ("agents:\n  ../x: {}\n", "2: agents.../x: an agent's name is small letters"),
        ("agents:\n  5: {}\n", "2: agents.5: an agent's name is small letters"),
        (
            "agents:\n  code: x\n",
            "2: agents.code: must be a table of description, folders and rate_per_minute",
        ),
        ("agents:\n  code:\n", "2: agents.code: must be a table of description, folders and rate_per_minute"),
        (
            "agents:\n  code:\n    folder: [a]\n",
            "3: agents.code.folder: unknown key; did you mean 'folders'?",
        ),
        (
            "agents:\n  code:\n    folders: a\n",
            "3: agents.code.folders: must be a list of plain folder names",
        ),
        ("agents:\n  code:\n    folders: [../x]\n", "3: agents.code.folders: must be a list of plain"),
        ("agents:\n  code:\n    folders: [5]\n", "3: agents.code.folders: must be a list of plain"),
        ("agents:\n  code:\n    folders: ~\n", "3: agents.code.folders: must be a list of plain"),
        ("agents:\n  code:\n    description: 5\n", "3: agents.code.description: must be text"),
        (
            "agents:\n  code:\n    rate_per_minute: -1\n",
            "3: agents.code.rate_per_minute: must be 0 (no limit) or a number",
        ),
        (
            "agents: {code: {rate_per_minute: 1e9}}\n",
            "1: agents.code.rate_per_minute: must be 0 (no limit) or a number",
        ),
        (
            "agents: {code: {rate_per_minute: .nan}}\n",
            "1: agents.code.rate_per_minute: must be 0 (no limit) or a number",
        ),
        (
            "agents: {code: {rate_per_minute: yes}}\n",
            "1: agents.code.rate_per_minute: must be 0 (no limit) or a number",
        ),
        ("agents:\n  code: {}\n  code: {}\n", "3: 'code' stands twice (first on line 2)"),
        ("agents:\n  monitor: {}\n", "2: agents.monitor: "),
        ("agents:\n  redis: {}\n", "2: agents.redis: "),
        ("agents:\n  up: {}\n", "2: agents.up: "),
        ("agents:\n  heal: {}\n", "2: agents.heal: "),
    ],
)
def test_what_is_wrong_with_an_agent(home: Home, text: str, said: str) -> None:
    file = configure(home, text, "agents.yaml")
    assert refused(home).startswith(f"{file}:{said}")


# -- secrets ------------------------------------------------------------------------------------------------


def test_the_url_of_redis_is_secret_and_nothing_else() -> None:
    assert [name for name in known_keys() if is_secret(name)] == ["redis.url"]


def test_a_url_of_the_user(home: Home) -> None:
    settings = load_settings(home, {"AI_INFRA_REDIS_URL": "redis://:pw@host/1"})
    assert not settings.embedded_redis
    assert settings.redis_url == "redis://:pw@host/1"
    assert "pw" not in str(settings.origins)


def test_a_secret_of_a_wrong_type_is_not_printed(home: Home) -> None:
    configure(home, "redis:\n  url: {host: h, password: hunter2}\n")
    assert "hunter2" not in refused(home)


def test_a_secret_is_not_in_the_repr(home: Home) -> None:
    assert "hunter2" not in repr(load_settings(home, {"AI_INFRA_REDIS_URL": "redis://:hunter2@host"}))


# -- what `up` was started with -----------------------------------------------------------------------------


def test_what_up_was_started_with_is_kept_for_every_later_command(home: Home) -> None:
    env = {"AI_INFRA_TMUX_SOCKET": "own", "AI_INFRA_REDIS_URL": "redis://:pw@h", "HOME": "/", "OTHER": "x"}
    record_overrides(home, env, keep=False)
    path = home.run / "overrides.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "OTHER" not in path.read_text()
    settings = load_settings(home, {})
    assert (settings.tmux.socket, settings.redis_url) == ("own", "redis://:pw@h")
    assert settings.origins["tmux.socket"] == "ai-infra up (AI_INFRA_TMUX_SOCKET)"


def test_a_new_session_forgets_the_overrides_of_the_old_one(home: Home) -> None:
    record_overrides(home, {"AI_INFRA_TMUX_SOCKET": "own"}, keep=False)
    record_overrides(home, {}, keep=False)
    assert load_settings(home, {}).tmux.socket == "default"


def test_an_up_of_what_is_up_keeps_them_and_adds_its_own(home: Home) -> None:
    record_overrides(home, {"AI_INFRA_TMUX_SOCKET": "own", "AI_INFRA_TASKS_LEASE_S": "11"}, keep=False)
    record_overrides(home, {"AI_INFRA_TASKS_LEASE_S": "12", "AI_INFRA_TASKS_GRACE_S": "13"}, keep=True)
    settings = load_settings(home, {})
    assert (settings.tmux.socket, settings.tasks.lease_s, settings.tasks.grace_s) == ("own", 12, 13)


def test_they_end_with_the_session(home: Home) -> None:
    record_overrides(home, {"AI_INFRA_TMUX_SOCKET": "own"}, keep=False)
    forget_overrides(home)
    forget_overrides(home)
    assert load_settings(home, {}).tmux.socket == "default"


def test_overrides_are_the_settings_in_an_environment() -> None:
    env = {"AI_INFRA_TMUX_SOCKET": "own", "AI_INFRA_HOME": "/srv", "AI_INFRA_TASKS_LEASE_S": "soon", "X": "y"}
    assert overrides_in(env) == {"tmux.socket": "own", "tasks.lease_s": "soon"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"nothing.known": "x", "tmux": "x", "": "x"}'])
def test_a_damaged_record_of_overrides_changes_nothing(home: Home, text: str) -> None:
    (home.run / "overrides.json").write_text(text)
    assert load_settings(home, {}).tmux.socket == "default"


def test_a_wrong_value_in_the_record_is_named(home: Home) -> None:
    write_json(home.run / "overrides.json", {"tasks.lease_s": None})
    assert re.match("AI_INFRA_TASKS_LEASE_S: must be a number, not 'None'", refused(home))
