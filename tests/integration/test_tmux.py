"""The door to tmux, on a server of its own: what is there, what is made, and what is only unknown."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ai_infra.core.errors import ConnectorError
from ai_infra.core.home import Home
from ai_infra.core.ids import WindowName
from ai_infra.core.settings import TmuxSettings, load_settings
from ai_infra.supervisor import tmux as room
from ai_infra.supervisor.environment import ENV_ALLOWED
from ai_infra.supervisor.spec import SessionSpec, WindowSpec, load_session
from ai_infra.supervisor.tmux import Absent, Foreign, Pane, Present, Sight, Tmux, Unknown
from ai_infra.testing import wait_until

T = TypeVar("T")
SESSION = "ai-infrastructure"
SECRET = "key-of-" + "a-person"
SLEEP = ["sleep", "600"]
TMUX = str(shutil.which("tmux"))
#: Writes its words, its environment and its folder into a file, then stays.
TELL = """
import json, os, sys, time
with open(sys.argv[1] + ".new", "w") as file:
    json.dump([sys.argv[2:], dict(os.environ), os.getcwd()], file)
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(600)
"""


def go(work: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        return await asyncio.wait_for(work, 30)

    return asyncio.run(bounded())


class Server:
    """A tmux server on a socket that nobody else knows; there is none until something is made on it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.socket = folder, folder / "tmux"
        self.home = Home(folder / "state")
        settings = load_settings(self.home, {})
        self.spec = load_session(settings)

    @property
    def tmux(self) -> Tmux:
        """A door as a new command has it."""
        return self.door(self.socket)

    def door(self, socket: Path) -> Tmux:
        return Tmux(TmuxSettings(session=SESSION, socket=str(socket), width=120, height=30), self.home.root)

    def ask(self, *words: str) -> str:
        """What tmux itself says, asked by a client of the test."""
        done = subprocess.run(
            [TMUX, "-S", str(self.socket), *words], capture_output=True, text=True, check=False, timeout=20
        )
        return done.stdout.rstrip("\n")

    def look(self) -> Sight:
        return go(self.tmux.look())

    def present(self) -> Present:
        sight = self.look()
        assert isinstance(sight, Present), sight
        return sight

    def make(self, *names: str) -> dict[str, Pane]:
        """The session with these windows, all empty."""

        async def made() -> dict[str, Pane]:
            tmux = self.tmux
            session = await tmux.create(self.spec)
            windows = [window for window in self.spec.windows if window.name in names]
            return {window.name: await tmux.add_window(session, window) for window in windows}

        return go(made())

    def respawn(self, pane: Pane, argv: list[str], env: Mapping[str, str] | None = None) -> None:
        go(self.tmux.respawn(pane, argv, env or {"PATH": os.environ["PATH"]}, self.folder))

    def told(self, pane: Pane, words: list[str], env: Mapping[str, str], cwd: Path | None = None) -> Any:
        """Words, environment and folder that a process gets in this pane."""
        file = self.folder / "told"
        argv = [sys.executable, "-S", "-c", TELL, str(file), *words]
        go(self.tmux.respawn(pane, argv, env, cwd or self.folder))
        wait_until(file.exists, 10, "the process has told")
        return json.loads(file.read_text())

    def wait_dead(self, name: str) -> Pane:
        def dead() -> Pane | None:
            pane = self.present().panes[WindowName(name)]
            return pane if pane.dead else None

        pane = wait_until(dead, 10, f"{name} is dead")
        assert pane is not None
        return pane

    def pid(self) -> int:
        return int(self.ask("display-message", "-p", "#{pid}"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="ai-tmux-"))
    for name in ("TMUX", "TMUX_PANE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMUX_TMPDIR", str(folder))  # where even a mistake would find no server of a person's
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("A_SECRET", SECRET)
    found = Server(folder)
    try:
        yield found
    finally:
        found.ask("kill-server")
        shutil.rmtree(folder, ignore_errors=True)


# -- what is there ------------------------------------------------------------------------------------------


def test_no_server_is_absent(server: Server) -> None:
    assert server.look() == Absent()
    assert not server.socket.exists()  # looking makes none


def test_a_socket_that_a_dead_server_left_is_absent(server: Server) -> None:
    server.make()
    os.kill(server.pid(), signal.SIGKILL)
    wait_until(lambda: server.look() == Absent(), 5, "the server is gone")
    assert server.socket.exists()


def test_a_folder_that_is_not_there_is_absent(server: Server) -> None:
    assert go(server.door(server.folder / "no" / "such").look()) == Absent()


def test_a_socket_that_cannot_be_asked_is_unknown(server: Server) -> None:
    sight = go(server.door(server.folder / ("x" * 200)).look())
    assert isinstance(sight, Unknown)
    assert "File name too long" in sight.reason


def test_a_server_without_our_session_is_absent(server: Server) -> None:
    server.ask("-f", "/dev/null", "new-session", "-d", "-s", "work", *SLEEP)
    assert server.look() == Absent()


def test_sessions_with_names_like_ours_are_not_ours(server: Server) -> None:
    for name in ("ai", SESSION + "-notes", "my-" + SESSION):
        server.ask("-f", "/dev/null", "new-session", "-d", "-s", name, *SLEEP)
        server.ask("set-option", "-t", f"={name}:", "@ai_infra", "1")
    assert server.look() == Absent()
    server.make("supervisor")
    assert list(server.present().panes) == ["supervisor"]
    go(server.tmux.kill_session(server.present().session_id))
    assert server.look() == Absent()
    assert len(server.ask("list-sessions").splitlines()) == 3


def test_a_session_of_our_name_without_our_mark_is_foreign(server: Server) -> None:
    server.ask("-f", "/dev/null", "new-session", "-d", "-s", SESSION, *SLEEP)
    assert server.look() == Foreign(server.ask("display-message", "-p", "#{session_id}"))


def test_a_hung_server_is_unknown_within_the_deadline(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "CALL_TIMEOUT_S", 0.3)
    server.make("supervisor")
    pid = server.pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        sight = server.look()
        assert isinstance(sight, Unknown)
        assert "list-panes gave no answer within 0.3 s" in sight.reason
        assert time.monotonic() - began < 3
        assert _clients(server) == []
    finally:
        os.kill(pid, signal.SIGCONT)
    monkeypatch.setattr(room, "CALL_TIMEOUT_S", 5)
    assert list(server.present().panes) == ["supervisor"]


def test_a_call_that_is_cancelled_leaves_no_client(server: Server) -> None:
    server.make("supervisor")
    pid = server.pid()
    os.kill(pid, signal.SIGSTOP)

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await server.tmux.look()

    try:
        go(give_up())
        assert _clients(server) == []
    finally:
        os.kill(pid, signal.SIGCONT)


def _clients(server: Server) -> list[int]:
    """Processes of tmux on this socket, beside the server."""
    word, found = str(server.socket).encode(), []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and word in Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0"):
                found.append(int(name))
        except OSError:
            continue
    return [pid for pid in found if b"list-panes" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.parametrize(
    "content", [None, "", "#!/no/such/interpreter\n"], ids=["none", "no program", "broken"]
)
def test_a_tmux_that_cannot_be_started_is_unknown(
    server: Server, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    folder = server.folder / "bin"
    folder.mkdir()
    if content is not None:
        (folder / "tmux").write_text(content)
        (folder / "tmux").chmod(0o644 if not content else 0o755)
    monkeypatch.setenv("PATH", str(folder))
    assert isinstance(server.look(), Unknown)


def test_many_looks_at_once(server: Server) -> None:
    server.make("supervisor", "code")

    async def many() -> list[Sight]:
        return await asyncio.gather(*(server.tmux.look() for _ in range(20)))

    assert all(isinstance(sight, Present) and len(sight.panes) == 2 for sight in go(many()))


# -- what is made -------------------------------------------------------------------------------------------


def test_a_session_and_its_windows(server: Server) -> None:
    panes = server.make("supervisor", "code", "redis")
    sight = server.present()
    assert sight.home == str(server.home.root)
    assert go(server.tmux.socket_path(sight.session_id)) == str(server.socket)
    ids = {name: (pane.window_id, pane.pane_id) for name, pane in panes.items()}
    assert {name: (pane.window_id, pane.pane_id) for name, pane in sight.panes.items()} == ids
    go(server.tmux.drop_spare(sight.session_id))
    go(server.tmux.drop_spare(sight.session_id))
    rows = server.ask("list-windows", "-t", SESSION, "-F", "#{window_index} #{window_name} #{window_active}")
    assert rows.splitlines() == ["0 supervisor 1", "1 code 0", "8 redis 0"]
    assert server.ask("display-message", "-p", "-t", SESSION, "#{window_width}x#{window_height}") == "120x30"


def test_a_users_own_settings_change_nothing(server: Server) -> None:
    conf = (
        "set -g base-index 1\nset -g pane-base-index 1\nset -g renumber-windows on\n"
        "set -g automatic-rename on\n"
        "set -g default-command false\nset -g default-shell /bin/false\nset -g remain-on-exit off\n"
        "set -g update-environment A_SECRET\nset -g status-right x\nset -g destroy-unattached on\n"
    )
    (server.folder / ".tmux.conf").write_text(conf)
    panes = server.make("supervisor", "code", "redis")
    go(server.tmux.drop_spare(server.present().session_id))
    words, env, _ = server.told(panes["supervisor"], ["x"], {"PATH": "/bin"})
    assert (words, env["PATH"]) == (["x"], "/bin")
    assert SECRET not in str(env)
    server.respawn(panes["code"], ["false"])
    assert server.wait_dead("code").dead
    rows = server.ask("list-windows", "-t", SESSION, "-F", "#{window_index} #{window_name}").splitlines()
    assert rows == ["0 supervisor", "1 code", "8 redis"]
    assert server.ask("show-options", "-gv", "base-index") == "1"


def test_a_session_is_made_once(server: Server) -> None:
    server.make("supervisor")
    with pytest.raises(ConnectorError, match=f"duplicate session: {SESSION}"):
        server.make("code")
    assert list(server.present().panes) == ["supervisor"]


def test_a_session_of_a_person_with_our_name_is_not_changed(server: Server) -> None:
    server.ask("-f", "/dev/null", "new-session", "-d", "-s", SESSION, "-n", "work", *SLEEP)

    def view() -> list[str]:
        return [
            server.ask("show-options", "-t", f"={SESSION}:"),
            server.ask("list-windows", "-t", f"={SESSION}"),
        ]

    before = view()
    with pytest.raises(ConnectorError, match="duplicate session"):
        server.make("supervisor")
    assert view() == before


def test_ours_is_found_under_whatever_name_a_person_gave_it(server: Server) -> None:
    server.make("supervisor")
    server.ask("rename-session", "-t", SESSION, "mine")
    assert list(server.present().panes) == ["supervisor"]
    server.ask("new-session", "-d", "-s", SESSION, *SLEEP)
    assert list(server.present().panes) == ["supervisor"]


def test_a_window_of_a_person_keeps_its_place(server: Server) -> None:
    server.make("supervisor")
    session = server.present().session_id
    server.ask("new-window", "-d", "-n", "mine", "-t", f"{session}:1", *SLEEP)
    code = server.spec.find("code")
    assert code is not None
    pane = go(server.tmux.add_window(session, code))
    assert server.present().panes[WindowName("code")].pane_id == pane.pane_id
    rows = server.ask("list-windows", "-t", session, "-F", "#{window_index} #{window_name}").splitlines()
    assert "1 mine" in rows
    assert any(row.endswith(" code") for row in rows)


def test_nothing_is_set_for_others(server: Server) -> None:
    server.ask("-f", "/dev/null", "new-session", "-d", "-s", "work", *SLEEP)

    def view() -> list[str]:
        asked = (["show-options", "-g"], ["show-options", "-gw"], ["show-options", "-s"], ["list-keys"],
                 ["show-options", "-t", "=work:"], ["list-windows", "-t", "=work:"])  # fmt: skip
        return [server.ask(*words) for words in asked]

    before = view()
    panes = server.make("supervisor")
    server.respawn(panes["supervisor"], SLEEP)
    go(server.tmux.set_status(server.present().session_id, "9/9 up"))
    assert view() == before


def test_a_server_of_ours_knows_no_secret(server: Server) -> None:
    server.make("supervisor")
    names = {row.split("=")[0].removeprefix("-") for row in server.ask("show-environment", "-g").splitlines()}
    assert names <= {*ENV_ALLOWED, "TMUX_TMPDIR", "PWD", "OLDPWD", "SHLVL", "_"}
    assert SECRET.encode() not in Path(f"/proc/{server.pid()}/environ").read_bytes()


def test_a_session_of_tmuxp_is_adopted(server: Server) -> None:
    server.ask("-f", "/dev/null", "new-session", "-d", "-s", SESSION, *SLEEP)
    server.ask("set-option", "-t", SESSION, "@ai_infra", "1")
    sight = server.present()
    assert sight.home == ""
    go(server.tmux.adopt(sight.session_id))
    assert server.present().home == str(server.home.root)


def test_a_process_takes_the_place_of_what_was_there(server: Server) -> None:
    pane = server.make("code")["code"]
    server.respawn(pane, SLEEP)
    first = server.present().panes[WindowName("code")]
    assert (first.pane_id, first.window_id, first.dead) == (pane.pane_id, pane.window_id, False)
    words = Path(f"/proc/{first.pid}/cmdline")
    wait_until(lambda: words.read_bytes() == b"sleep\x00600\x00", 5, "the process runs")
    server.respawn(pane, ["sleep", "601"])
    assert server.present().panes[WindowName("code")].pid != first.pid
    wait_until(lambda: not os.path.exists(f"/proc/{first.pid}"), 5, "the first is gone")


HOSTILE = [
    "", "a;", ";", "\\;", "a\\", "a\\;", "a ; kill-server", "#{pane_id}", "#(touch x)", "##", "$HOME", "`id`",
    "'", '"', "a\nb", "\t", "-x", "--", "ü€😀", "%1", "{", "}", "~", "*", "x" * 3000,
]  # fmt: skip


def test_words_and_values_arrive_as_they_are(server: Server) -> None:
    pane = server.make("code")["code"]
    env = {f"V{i}": value for i, value in enumerate(HOSTILE)}
    words, got, _ = server.told(pane, HOSTILE, env)
    assert words == HOSTILE
    assert {name: got[name] for name in env} == env
    assert not (server.folder / "x").exists()
    assert server.present()


def test_the_environment_is_exactly_the_given_one(server: Server) -> None:
    server.ask("-f", "/dev/null", "new-session", "-d", "-s", "work", *SLEEP)  # a server with a person's keys
    assert SECRET in server.ask("show-environment", "-g")
    pane = server.make("code")["code"]
    env = {"PATH": "/bin", "LANG": "C.UTF-8", "AI_INFRA_HOME": "/x y", "TERM": "dumb"}
    _, got, cwd = server.told(pane, [], env)
    session = server.present().session_id.removeprefix("$")
    told = {"TMUX": f"{server.socket},{server.pid()},{session}", "TMUX_PANE": pane.pane_id}
    got.pop("LC_CTYPE", None)  # Python's own, for a C locale
    assert got == {**env, **told, "TERM": server.ask("show-options", "-gv", "default-terminal")}
    assert cwd == str(server.folder)


@pytest.mark.parametrize("name", ["a b", "a;", "ü'\"$x", "%H", "c#", "#{pane_id}", "#S", "##"])
def test_a_folder_with_an_odd_name(server: Server, name: str) -> None:
    folder = server.folder / name
    folder.mkdir()
    pane = server.make("code")["code"]
    assert server.told(pane, [], {"PATH": "/bin"}, folder)[2] == str(folder)


def test_a_long_path(server: Server) -> None:
    pane = server.make("code")["code"]
    path = ":".join(["/usr/bin", *(f"/opt/package-{i}/bin" for i in range(400))])
    assert server.told(pane, [], {"PATH": path})[1]["PATH"] == path


@pytest.mark.parametrize(
    ("text", "status", "number"), [("exit 7", 7, None), ("exit 0", 0, None), ("kill -9 $$", None, 9)]
)
def test_an_end_is_seen_and_the_window_stays(
    server: Server, text: str, status: int | None, number: int | None
) -> None:
    pane = server.make("code")["code"]
    server.respawn(pane, ["sh", "-c", text])
    dead = server.wait_dead("code")
    assert (dead.exit_status, dead.exit_signal) in ((status, number), (None, None))  # tmux may not know
    server.respawn(dead, SLEEP)
    assert not server.present().panes[WindowName("code")].dead


def test_a_program_that_does_not_exist(server: Server) -> None:
    server.respawn(server.make("code")["code"], ["/no/such/program"])
    assert server.wait_dead("code").exit_status in (127, None)


def test_the_only_line_of_a_window_that_died_at_once_is_still_shown(server: Server) -> None:
    """`up` shows these lines to say why a window does not come up."""
    pane = server.make("code")["code"]
    for i in range(6):
        server.respawn(pane, ["sh", "-c", f"echo no settings {i}; exit 6"])
        wait_until(lambda: server.wait_dead("code").pid != pane.pid, 10, "it has died")
        shown = wait_until(
            lambda i=i: f"no settings {i}" in go(server.tmux.capture(pane, 8)), 1, "its line is shown"
        )
        assert shown


def test_a_window_that_a_person_renamed_moved_and_split_is_still_known(server: Server) -> None:
    panes = server.make("supervisor", "code")
    target = panes["code"].window_id
    server.ask("rename-window", "-t", target, "mine")
    server.ask("split-window", "-d", "-b", "-t", target, *SLEEP)
    server.ask("move-window", "-s", target, "-t", f"{SESSION}:77")
    found = server.present().panes[WindowName("code")]
    assert found.window_id == target


def test_a_pane_that_a_person_put_before_ours_is_not_taken_for_ours(server: Server) -> None:
    pane = server.make("supervisor")["supervisor"]
    server.ask("split-window", "-d", "-b", "-t", pane.pane_id, *SLEEP)
    assert server.present().panes[WindowName("supervisor")].pane_id == pane.pane_id


def test_capture_is_the_last_lines_as_text(server: Server) -> None:
    pane = server.make("code")["code"]
    text = (
        "printf '\\033[31mred\\033[0m\\n\\n'; for i in 1 2 3; do echo \"line $i  \"; done; "
        "printf 'ü%0200d' 0; sleep 600"
    )
    server.respawn(pane, ["sh", "-c", text])
    shown = wait_until(lambda: (s := go(server.tmux.capture(pane, 3))).count("\n") == 2 and s, 10)
    assert shown == "line 2\nline 3\nü" + "0" * 200
    assert go(server.tmux.capture(pane, 99)).startswith("red\nline 1\n")


def status_of(server: Server, text: str) -> str:
    """What stands at the right of the status line."""
    go(server.tmux.set_status(server.present().session_id, text))
    return server.ask("display-message", "-p", "-t", SESSION, "#{T:status-right}")


@pytest.mark.parametrize(
    "text",
    [
        "9/9 up, 2 running ",
        "#{pane_id}",
        "#(touch x)",
        "##",
        "a;",
        "; kill-server",
        "-x",
        "ü€",
        "'\"`$HOME",
        "#S",
        "",
    ],
)
def test_the_status_is_text(server: Server, text: str) -> None:
    server.make("supervisor")
    assert status_of(server, text) == text.rstrip("\n")
    assert not (server.folder / "x").exists()


def test_a_percent_sign_in_the_status_is_text(server: Server) -> None:
    server.make("supervisor")
    assert status_of(server, "cpu 50%, %H %%") == "cpu 50%, %H %%"


def test_a_session_is_ended_and_twice_is_safe(server: Server) -> None:
    server.ask("-f", "/dev/null", "new-session", "-d", "-s", "work", *SLEEP)
    server.make("supervisor")
    session = server.present().session_id
    go(server.tmux.kill_session(session))
    go(server.tmux.kill_session(session))
    assert server.look() == Absent()
    assert server.ask("list-sessions", "-F", "#{session_name}") == "work"
    server.ask("kill-server")
    wait_until(lambda: server.look() == Absent(), 5, "no server is left")
    go(server.tmux.kill_session(session))


def test_a_server_that_dies_while_it_is_asked_has_no_session_left(server: Server) -> None:
    server.make("supervisor")
    session, pid = server.present().session_id, server.pid()

    def asking() -> bool:
        """Whether a client of ours is connected."""
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
                links = [os.readlink(link) for link in Path(f"/proc/{child}/fd").iterdir()]
                if any(link.startswith("socket:") for link in links):
                    return True
        return False

    async def main() -> None:
        os.kill(pid, signal.SIGSTOP)
        ending = asyncio.create_task(server.tmux.kill_session(session))
        await asyncio.to_thread(wait_until, asking, 5, "it is asked")
        os.kill(pid, signal.SIGKILL)
        await ending

    go(main())


def test_the_last_session_takes_the_server_with_it(server: Server) -> None:
    server.make("supervisor")
    pid = server.pid()
    go(server.tmux.kill_session(server.present().session_id))
    wait_until(lambda: not os.path.exists(f"/proc/{pid}/exe"), 5, "the server has ended")


def test_what_does_not_exist_is_an_error_in_words(server: Server) -> None:
    pane = server.make("code")["code"]
    gone = replace(pane, pane_id="%999", window_id="@999")
    with pytest.raises(ConnectorError, match=r"no such window: @999|can't find pane: %999"):
        server.respawn(gone, SLEEP)
    with pytest.raises(ConnectorError, match="can't find pane: %999"):
        go(server.tmux.capture(gone, 5))


# -- files of a person's own --------------------------------------------------------------------------------


def plain(*names: str, **options: str) -> SessionSpec:
    """A session as a person may write it: without our options."""
    windows = tuple(WindowSpec(name=WindowName(n), index=i, options={}) for i, n in enumerate(names))
    return SessionSpec(name=SESSION, options=options, windows=windows)


def test_a_session_that_cannot_be_made_whole_is_not_left_behind(server: Server) -> None:
    server.spec = plain("supervisor", **{"@ai_infra": "1", "no-such-option": "x"})
    with pytest.raises(ConnectorError, match="no-such-option"):
        server.make("supervisor")
    assert server.look() == Absent()


@pytest.mark.parametrize("name", ["a b", "ü", "a#{pane_id}", "a'\"$x", "a;", "a|b"])
def test_a_home_with_an_odd_name(server: Server, name: str) -> None:
    server.home = Home(server.folder / name)
    server.make("supervisor")
    assert server.present().home == str(server.home.root)


def test_a_home_that_ends_with_a_semicolon_is_adopted(server: Server) -> None:
    server.home = Home(server.folder / "a;")
    server.make("supervisor")
    go(server.tmux.adopt(server.present().session_id))
    assert server.present().home == str(server.home.root)
