"""install.sh, driven as a person drives it: real environments, real pip, temporary folders for everything.

One install (`installed`) is shared by the tests that only look at it or fail to replace it; a second
(`plain_user`) is made from a pipe by a user without root and upgraded; a third by two installs at once.
"""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

import ai_infra

CHECKOUT = Path(__file__).resolve().parents[2]
NOBODY = 65534
#: What a run inherits: how to reach the package index. Nothing of ours, nothing of the real home.
INHERITED = re.compile(
    r"LANG|TERM|TMPDIR|PIP_\w+|\w+_proxy|\w+_PROXY|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|GIT_SSL_CAINFO"
)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NOT_SOURCE = shutil.ignore_patterns(
    ".venv", ".git", "build", "dist", "__pycache__", ".*_cache", ".hypothesis"
)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Temporary folders that stand for a machine, and the user who works on it."""

    base: Path
    uid: int | None = None  #: run as this user; None is whoever runs the tests
    defaults: bool = False  #: install where things go by default, instead of folders named by variables

    @property
    def home(self) -> Path:
        return self.base / "home"

    @property
    def prefix(self) -> Path:
        return self.base / "home/prefix"

    @property
    def state(self) -> Path:
        return self.base / "home/state"

    @property
    def link(self) -> Path:
        return self.base / "home/bin/ai-infra"

    @property
    def completions(self) -> Path:
        return self.base / "home/share"

    def env(self, more: Mapping[str, str]) -> dict[str, str]:
        env = {name: value for name, value in os.environ.items() if INHERITED.fullmatch(name)}
        pip_config = Path.home() / ".config/pip/pip.conf"  # the index may be configured there
        if pip_config.exists() and self.uid is None:
            env.setdefault("PIP_CONFIG_FILE", str(pip_config))
        if not self.defaults:
            env |= {
                "AI_INFRA_PREFIX": str(self.prefix),
                "AI_INFRA_BIN_DIR": str(self.link.parent),
                "AI_INFRA_COMPLETION_DIR": str(self.completions),
            }
        env |= {
            "PATH": PATH,
            "HOME": str(self.home),
            "PIP_CACHE_DIR": str(self.base / "pip-cache"),
            "AI_INFRA_HOME": str(self.state),
        }
        return {**env, **more}

    def run(
        self, *command: str | Path, piped: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end; `piped` is what comes in by stdin."""
        with (piped or Path(os.devnull)).open() as stdin:
            return subprocess.run(
                self.as_user([str(part) for part in command]),
                stdin=stdin,
                capture_output=True,
                text=True,
                env=self.env(env or {}),
                cwd="/",
                timeout=100,
                check=False,
            )

    def as_user(self, command: list[str]) -> list[str]:
        if self.uid is None:
            return command
        ids = [f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups"]
        return ["setpriv", *ids, "--", *command]


def succeeded(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def failed(result: subprocess.CompletedProcess[str], code: int) -> str:
    assert result.returncode == code, result.stdout + result.stderr
    return result.stderr


def one_line(text: str) -> str:
    assert text.count("\n") == 1, text
    return text


def tree(folder: Path) -> dict[str, float]:
    """Every path below a folder with the time of its last change, but for what Python compiles by itself."""
    found = (path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): path.lstat().st_mtime for path in found if not path.is_dir()}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, which others may be editing."""
    return Path(shutil.copytree(CHECKOUT, tmp_path_factory.mktemp("source") / "tree", ignore=NOT_SOURCE))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Machine:
    machine = new_machine(tmp_path_factory.mktemp("installed"))
    output = succeeded(machine.run(source / "install.sh"))
    assert f"installed ai-infra {ai_infra.__version__} in " in output
    return machine


@pytest.fixture
def untouched(tmp_path: Path) -> Iterator[Machine]:
    """A machine on which the test must not change anything."""
    machine = new_machine(tmp_path)
    yield machine
    assert list(machine.home.iterdir()) == []


def new_machine(base: Path) -> Machine:
    machine = Machine(base=base)
    machine.home.mkdir()
    return machine


@pytest.fixture(scope="module")
def plain_user(source: Path) -> Iterator[Machine]:
    """A user without root and a source of theirs; below /tmp itself, where every user may go."""
    base = Path(tempfile.mkdtemp(prefix="ai-infra-user-"))
    machine = Machine(base=base, uid=NOBODY if os.geteuid() == 0 else None, defaults=True)
    try:
        machine.home.mkdir()
        shutil.copytree(source, base / "source")
        if machine.uid is not None:
            subprocess.run(["chown", "-R", f"{machine.uid}:{machine.uid}", base], check=True)
        yield machine
    finally:
        shutil.rmtree(base)


# ---------------------------------------------------------------- what an install makes


def test_link_starts_the_program(installed: Machine) -> None:
    assert installed.link.is_symlink()
    assert "Usage: ai-infra" in succeeded(installed.run(installed.link, "--help"))


def test_second_run_is_quick_and_changes_nothing(installed: Machine, source: Path) -> None:
    before = tree(installed.home)
    started = time.monotonic()
    output = succeeded(installed.run(source / "install.sh"))
    took_s = time.monotonic() - started
    assert f"unchanged: ai-infra {ai_infra.__version__}" in output
    assert tree(installed.home) == before
    assert took_s < 3.0


def test_a_lost_link_comes_back(installed: Machine, source: Path) -> None:
    installed.link.unlink()
    assert str(installed.link) in succeeded(installed.run(source / "install.sh"))
    assert succeeded(installed.run(installed.link, "--help"))


def test_the_package_carries_its_data(installed: Machine, source: Path) -> None:
    python = installed.prefix / "venv/bin/python"
    code = "from ai_infra.core.shipped import shipped; print(shipped('config'), shipped('infrastructure'))"
    for folder in map(Path, succeeded(installed.run(python, "-c", code)).split()):
        assert installed.prefix in folder.parents
        shipped = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
        original = source / folder.name
        assert shipped == {path.relative_to(original) for path in original.rglob("*") if path.is_file()}
        assert shipped


def test_everything_is_compiled_at_install(installed: Machine) -> None:
    packages = next((installed.prefix / "venv/lib").resolve().glob("python3*/site-packages"))
    for name in ("ai_infra", "redis", "click"):
        sources = {path.stem for path in (packages / name).rglob("*.py")}
        compiled = {path.name.split(".")[0] for path in (packages / name).rglob("__pycache__/*.pyc")}
        assert sources <= compiled


def test_completion_answers_in_bash(installed: Machine) -> None:
    script = f"""
        PATH={installed.link.parent}:$PATH
        source {installed.completions}/bash-completion/completions/ai-infra
        COMP_WORDS=(ai-infra vers) COMP_CWORD=1
        _ai_infra_completion ai-infra vers ai-infra
        echo "${{COMPREPLY[@]}}"
    """
    assert succeeded(installed.run("bash", "-c", script)).split() == ["version"]


def test_completion_is_there_for_zsh_and_fish(installed: Machine) -> None:
    zsh = installed.completions / "zsh/site-functions/_ai-infra"
    fish = installed.completions / "fish/vendor_completions.d/ai-infra.fish"
    assert zsh.read_text().startswith("#compdef ai-infra")
    assert "complete --no-files --command ai-infra" in fish.read_text()


def test_a_path_without_the_link_is_told(installed: Machine, source: Path) -> None:
    note = f"{installed.link.parent} is not in your PATH"
    assert note in succeeded(installed.run(source / "install.sh"))
    path = f"{installed.link.parent}:{PATH}"
    assert note not in succeeded(installed.run(source / "install.sh", env={"PATH": path}))


# ---------------------------------------------------------------- what must not break an install


def test_a_wrong_hash_leaves_the_old_install_working(
    installed: Machine, source: Path, tmp_path: Path
) -> None:
    tampered = shutil.copytree(source, tmp_path / "tampered")
    lock = tampered / "requirements.lock"
    before_it, rest = ("\n" + lock.read_text()).split("\nclick==")
    lock.write_text(before_it + "\nclick==" + re.sub(r"sha256:\w{64}", "sha256:" + "0" * 64, rest, count=2))
    before = tree(installed.home)
    message = failed(installed.run(tampered / "install.sh"), 1)
    assert "install.sh: installing requirements.lock failed" in message
    assert "click" in message
    assert "Traceback" not in message
    assert tree(installed.home) == before
    assert succeeded(installed.run(installed.link, "--help"))


def test_a_program_that_does_not_start_is_not_installed(
    installed: Machine, source: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(source, tmp_path / "broken")
    (broken / "ai_infra/__init__.py").write_text(
        '__version__ = "9.9"\nraise SystemExit("broken on purpose")\n'
    )
    before = tree(installed.home)
    assert "broken on purpose" in failed(installed.run(broken / "install.sh"), 1)
    assert tree(installed.home) == before
    assert succeeded(installed.run(installed.link, "--help"))


def test_ctrl_c_leaves_nothing(untouched: Machine, source: Path) -> None:
    with subprocess.Popen(
        [source / "install.sh"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=untouched.env({}),
        start_new_session=True,
    ) as install:
        assert install.stdout is not None
        assert any("environment" in line for line in install.stdout)
        os.killpg(install.pid, signal.SIGINT)
        output = install.stdout.read()
        assert install.wait(timeout=20) == 130, output
    assert "interrupted" in output
    assert "Traceback" not in output


def test_a_file_that_is_not_ours_is_not_overwritten(tmp_path: Path, source: Path) -> None:
    machine = new_machine(tmp_path)
    machine.link.parent.mkdir()
    machine.link.write_text("mine")
    assert "is not ours" in one_line(failed(machine.run(source / "install.sh"), 1))
    assert machine.link.read_text() == "mine"
    assert not machine.prefix.exists()


@pytest.mark.parametrize("action", [[], ["--uninstall", "--purge"]], ids=["install", "uninstall"])
@pytest.mark.parametrize("variable", ["AI_INFRA_PREFIX", "AI_INFRA_HOME"])
@pytest.mark.parametrize("folder", ["/", "/usr/local", "HOME", "HOME/.."])
def test_dangerous_folders_are_refused(
    untouched: Machine, source: Path, action: list[str], variable: str, folder: str
) -> None:
    folder = folder.replace("HOME", str(untouched.home))
    message = failed(untouched.run(source / "install.sh", *action, env={variable: folder}), 2)
    assert message.startswith(f"install.sh: {variable} is '{folder}'")
    one_line(message)


def test_an_empty_prefix_is_refused(untouched: Machine, source: Path) -> None:
    message = failed(untouched.run(source / "install.sh", "--uninstall", env={"AI_INFRA_PREFIX": ""}), 2)
    assert "AI_INFRA_PREFIX is empty" in one_line(message)


@pytest.mark.parametrize("action", [[], ["--uninstall"]], ids=["install", "uninstall"])
def test_a_folder_with_other_things_in_it_is_refused(tmp_path: Path, source: Path, action: list[str]) -> None:
    machine = new_machine(tmp_path)
    machine.prefix.mkdir()
    (machine.prefix / "thesis.txt").write_text("mine")
    assert "not an install of ai-infra" in one_line(failed(machine.run(source / "install.sh", *action), 1))
    assert tree(machine.home).keys() == {"prefix/thesis.txt"}


# ---------------------------------------------------------------- usage


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--upp"], "unknown option '--upp'"),
        (["--up", "/nonexistent"], "/nonexistent: no such folder"),
        (["--purge"], "--purge goes with --uninstall"),
        (["--uninstall", "--up"], "cannot be combined"),
    ],
)
def test_wrong_usage_is_one_line(untouched: Machine, source: Path, arguments: list[str], words: str) -> None:
    assert words in one_line(failed(untouched.run(source / "install.sh", *arguments), 2))


def test_help_names_every_option_and_variable(untouched: Machine, source: Path) -> None:
    text = succeeded(untouched.run(source / "install.sh", "--help"))
    script = (source / "install.sh").read_text()
    assert set(re.findall(r"AI_INFRA_[A-Z_]+[A-Z]", script)) - {
        "AI_INFRA_COMPLETE",
        "AI_INFRA_TMUX_SOCKET",
    } <= set(text.split())
    assert set(re.findall(r"^ +(?:-h \| )?(--\w+)\)", script, re.MULTILINE)) <= set(
        re.findall(r"--\w+", text)
    )


@pytest.mark.skipif(Path("/run/systemd/system").exists(), reason="systemd runs here")
def test_service_needs_systemd(untouched: Machine, source: Path) -> None:
    message = one_line(failed(untouched.run(source / "install.sh", "--service"), 3))
    assert "systemd is not running here; nothing was changed" in message


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed here")
def test_the_unit_is_valid(installed: Machine, tmp_path: Path) -> None:
    shipped = (CHECKOUT / "infrastructure/systemd/ai-infra.service").read_text()
    unit = tmp_path / "ai-infra.service"
    unit.write_text(shipped.replace("/usr/local/bin/ai-infra", str(installed.link)))
    assert shipped.count("/usr/local/bin/ai-infra ") == 2
    result = installed.run("systemd-analyze", "verify", "--man=no", unit)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed here")
def test_shellcheck_finds_nothing() -> None:
    scripts = [CHECKOUT / "install.sh", CHECKOUT / ".ci/run", *(CHECKOUT / "scripts").glob("*.sh")]
    result = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, check=False)
    assert result.stdout == ""


@pytest.mark.parametrize("lock", ["requirements.lock", "tests/requirements.lock"])
def test_locks_pin_everything_and_name_no_place(lock: str) -> None:
    text = (CHECKOUT / lock).read_text()
    assert not re.search(r"https?:|file:|@ |--index|--find|--extra|^ *#|/", text, re.MULTILINE)
    for requirement in re.split(r"\n(?! )", text.strip()):
        assert re.match(r"[\w.-]+==[\w.]+( ; [^\\]+)? \\\n +--hash=sha256:\w{64}", requirement), requirement


# ---------------------------------------------------------------- from a pipe, by a user without root


def test_a_pipe_without_a_source_says_what_to_set(untouched: Machine, source: Path) -> None:
    message = one_line(failed(untouched.run("bash", piped=source / "install.sh"), 2))
    assert "set AI_INFRA_SOURCE" in message


@pytest.mark.parametrize(
    "address", ["/nonexistent", "/nonexistent.tar.gz", "http://127.0.0.1:9/x.tar.gz", "file:///nonexistent"]
)
def test_a_source_that_is_not_there_is_named(untouched: Machine, source: Path, address: str) -> None:
    message = failed(untouched.run("bash", piped=source / "install.sh", env={"AI_INFRA_SOURCE": address}), 1)
    assert address in message.splitlines()[-1]
    assert "Traceback" not in message


def test_a_download_cut_short_runs_nothing(untouched: Machine, source: Path, tmp_path: Path) -> None:
    script = (source / "install.sh").read_text().rstrip("\n")
    last_line = len(script) - script.rindex("\n")
    cut = tmp_path / "cut.sh"
    for missing in [*range(1, last_line), *range(last_line, len(script), 997)]:
        cut.write_text(script[:-missing])
        result = untouched.run("bash", piped=cut, env={"AI_INFRA_SOURCE": ""})
        assert result.stdout == "", f"without the last {missing} characters"
        assert "AI_INFRA_SOURCE to" not in result.stderr, f"without the last {missing} characters"


FEW_PROGRAMS = """
    bash sh env cat cut sort grep sed touch rm rmdir mkdir mktemp realpath dirname id flock setpriv
""".split()  # noqa: SIM905  # one word a line would hide what it is


def test_a_user_is_told_what_the_administrator_must_add(plain_user: Machine, source: Path) -> None:
    few = plain_user.base / "few-programs"
    few.mkdir(mode=0o755)
    for name in FEW_PROGRAMS:
        (few / name).symlink_to(shutil.which(name) or f"/usr/bin/{name}")
    for name in ("sudo", "apt-get"):  # they leave a trace when somebody calls them
        (few / name).write_text(f"#!/bin/sh\ntouch {plain_user.home}/$0.was-called\n")
        (few / name).chmod(0o755)
    result = plain_user.run(
        "bash", piped=source / "install.sh", env={"AI_INFRA_SOURCE": "/x", "PATH": str(few)}
    )
    message = failed(result, 3)
    assert "\n    apt-get install --no-install-recommends git redis-server tmux\n" in message
    assert list(plain_user.home.iterdir()) == []


@pytest.fixture(scope="module")
def piped(plain_user: Machine) -> Machine:
    """Installed from a pipe and a folder, where things go by default for a user."""
    folder = plain_user.base / "source"
    output = succeeded(install_piped(plain_user, str(folder)))
    assert "installed ai-infra" in output
    return plain_user


def install_piped(user: Machine, address: str) -> subprocess.CompletedProcess[str]:
    return user.run("bash", piped=user.base / "source/install.sh", env={"AI_INFRA_SOURCE": address})


def test_a_user_has_everything_in_their_home(piped: Machine) -> None:
    share = piped.home / ".local/share"
    link = piped.home / ".local/bin/ai-infra"
    assert link.readlink() == share / "ai-infra/venv/bin/ai-infra"
    assert (share / "bash-completion/completions/ai-infra").exists()
    assert (share / "ai-infra/src/install.sh").exists()
    assert succeeded(piped.run(link, "--help"))


def test_the_same_source_in_a_tarball_changes_nothing(piped: Machine, tmp_path: Path) -> None:
    tarball = piped.base / "ai-infra.tar.gz"
    with tarfile.open(tarball, "w:gz") as archive:
        archive.add(piped.base / "source", "ai-infra-main")
    assert "unchanged" in succeeded(install_piped(piped, str(tarball)))
    handler = functools.partial(QuietHandler, directory=str(piped.base))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, name="tarball-server").start()
        try:
            address = f"http://127.0.0.1:{server.server_port}/{tarball.name}"
            assert "unchanged" in succeeded(install_piped(piped, address))
        finally:
            server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_git_address_upgrades(piped: Machine) -> None:
    repository = piped.base / "repository.git"
    tree = piped.base / "changed"
    script = f"""
        set -e
        cp -r {piped.base}/source {tree}
        cd {tree}
        echo '# changed' >>ai_infra/__init__.py
        git init -q
        git add .
        git -c user.name=t -c user.email=t@localhost commit -q -m changed
        git clone -q --bare . {repository}
    """
    succeeded(piped.run("chmod", "u+w", piped.base))
    succeeded(piped.run("bash", "-c", script))
    assert "installed ai-infra" in succeeded(install_piped(piped, f"file://{repository}"))
    prefix = piped.home / ".local/share/ai-infra"
    assert (prefix / "src/.git").is_dir()
    assert len(list((prefix / "venvs").iterdir())) == 1
    package = next(prefix.glob("venv/lib/python3*/site-packages/ai_infra/__init__.py"))
    assert package.read_text().endswith("# changed\n")


# ---------------------------------------------------------------- two at once, and the end


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Machine:
    """Installed by two at the same moment; the tests below go on with it, the last one removes it."""
    machine = new_machine(tmp_path_factory.mktemp("twice"))
    with ThreadPoolExecutor(2) as people:
        runs = [people.submit(machine.run, source / "install.sh") for _ in range(2)]
        outputs = [succeeded(run.result()) for run in runs]
    first, second = sorted(outputs, key=lambda output: "unchanged" in output)
    assert "installed ai-infra" in first
    assert "another install is at work" in second
    assert "unchanged" in second
    return machine


def test_two_at_once_make_one_install(twice: Machine) -> None:
    assert len(list((twice.prefix / "venvs").iterdir())) == 1
    assert succeeded(twice.run(twice.link, "--help"))


def test_up_starts_the_session_and_passes_on_the_code_of_the_check_up(
    twice: Machine, source: Path, short_socket: Path
) -> None:
    private = {"AI_INFRA_TMUX_SOCKET": str(short_socket)}
    no_repository = twice.base / "no-repository"
    no_repository.mkdir()
    try:
        result = twice.run(source / "install.sh", "--up", no_repository, env=private)
        again = twice.run(twice.link, "checkup", no_repository, env=private)
        assert result.returncode == again.returncode != 0
        assert again.stderr in result.stderr
        assert f"tmux -S {short_socket} attach -t ai-infrastructure" in result.stdout
        assert "ai-infrastructure" in succeeded(twice.run("tmux", "-S", short_socket, "ls"))
    finally:
        succeeded(twice.run(source / "install.sh", "--uninstall", env=private))
    assert not twice.prefix.exists()
    assert not twice.link.exists()
    assert "no server" in failed(twice.run("tmux", "-S", short_socket, "ls"), 1)


@pytest.fixture
def short_socket() -> Iterator[Path]:
    """A private tmux server's address; short, for a socket's name holds about 100 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="ai-tmux-"))
    yield folder / "s"
    shutil.rmtree(folder)


def test_uninstall_keeps_the_state_and_purge_does_not(installed: Machine, source: Path) -> None:
    """The last test of the shared install, which it removes."""
    precious = installed.state / "workspace/precious.txt"
    precious.parent.mkdir(parents=True, exist_ok=True)
    precious.write_text("kept")
    output = succeeded(installed.run(source / "install.sh", "--uninstall"))
    assert f"state is kept in {installed.state}" in output
    assert precious.read_text() == "kept"
    assert [path.name for path in installed.home.iterdir()] == ["state"]

    output = succeeded(installed.run(source / "install.sh", "--uninstall", "--purge"))
    assert "is not installed in" in output
    assert list(installed.home.iterdir()) == []


def test_purge_spares_what_is_not_state(tmp_path: Path, source: Path) -> None:
    machine = new_machine(tmp_path)
    machine.state.mkdir()
    (machine.state / "thesis.txt").write_text("mine")
    message = failed(machine.run(source / "install.sh", "--uninstall", "--purge"), 1)
    assert "does not look like state of ai-infra" in one_line(message)
    assert (machine.state / "thesis.txt").exists()
