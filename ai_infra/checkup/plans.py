"""Plans: with which command a suite runs on this machine, or what is missing for it.

Nothing is installed. Python comes from the repository's own virtual environment when it has one; package
managers are told to stay offline; a script that would download or install is not run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ai_infra.checkup.bounded import run_bounded
from ai_infra.checkup.copies import read_text
from ai_infra.checkup.detect import INSTALLS, Runner, Suite, npm_needs_modules, npm_script

PROBE_S = 15.0
MODULES_BYTES = 400_000_000  #: a larger node_modules is not copied

INSIDE = "AI_INFRA_CHECKUP"  #: set for everything a suite runs; a check-up inside a check-up runs no suites


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to run a suite here, or why not."""

    suite: Suite
    command: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    missing: str = ""  #: why it cannot run


def make_plan(suite: Suite, top: Path, copy: Path, env: dict[str, str]) -> Plan:
    """The command for a suite on this machine. Looks at files and asks the tools whether they are there."""
    planners = {
        Runner.PYTEST: _plan_python,
        Runner.UNITTEST: _plan_python,
        Runner.NPM: _plan_npm,
        Runner.GO: _plan_go,
        Runner.CARGO: _plan_cargo,
        Runner.MAKE: _plan_make,
    }
    planner = planners.get(suite.runner)
    if planner is None:
        return Plan(suite=suite, missing=f"a {suite.note} suite was found; the check-up does not run these")
    return planner(suite, top, copy, env)


def clean_environment(home: Path) -> dict[str, str]:
    """What a suite sees: the caller's PATH, an empty home, no network for package managers, nothing else."""
    tmp = home / "t"
    tmp.mkdir()
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "TMPDIR": str(tmp),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "CI": "true",
        INSIDE: "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_ADDOPTS": "-p no:cacheprovider",
        "PIP_NO_INDEX": "1",
        "npm_config_offline": "true",
        "npm_config_update_notifier": "false",
        "GOPROXY": "off",
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-mod=readonly",
        "CARGO_NET_OFFLINE": "true",
    }
    # Tool managers look for their versions in the home folder; these folders hold programs, not settings.
    real = Path(os.path.expanduser("~"))
    for name, folder in {
        "RUSTUP_HOME": ".rustup",
        "CARGO_HOME": ".cargo",
        "PYENV_ROOT": ".pyenv",
        "NVM_DIR": ".nvm",
    }.items():
        place = os.environ.get(name) or str(real / folder)
        if os.path.isdir(place):
            env[name] = place
    return env


def _plan_python(suite: Suite, top: Path, copy: Path, env: dict[str, str]) -> Plan:
    python = _python_for(suite, top, env["PATH"])
    if python is None:
        return Plan(suite=suite, missing="python3 is not installed")
    work = copy / suite.folder
    roots = [str(path) for path in (work / "src", work) if path.is_dir()]
    more = {"PYTHONPATH": os.pathsep.join(roots), "PATH": f"{python.parent}{os.pathsep}{env['PATH']}"}
    if suite.runner == Runner.UNITTEST:
        return Plan(suite=suite, command=_unittest_command(python, suite, work), env=tuple(more.items()))
    if not _can_import(python, "pytest", env):
        return Plan(
            suite=suite, missing=f"pytest is not installed for {python} (a .venv in the repository is used)"
        )
    command = [str(python), "-m", "pytest", "-q", "-rfE", "--tb=short", "--color=no"]
    return Plan(suite=suite, command=(*command, *filter(None, [suite.target])), env=tuple(more.items()))


def _unittest_command(python: Path, suite: Suite, work: Path) -> tuple[str, ...]:
    command = [str(python), "-m", "unittest", "discover"]
    if suite.target:
        command += ["-s", suite.target]
        if (work / suite.target / "__init__.py").exists():
            command += ["-t", "."]
    return tuple(command)


def _python_for(suite: Suite, top: Path, path: str) -> Path | None:
    """The repository's own virtual environment, else the machine's Python.

    Never the one this program runs in.
    """
    for folder in dict.fromkeys((top / suite.folder, top)):
        for name in (".venv", "venv"):
            python = folder / name / "bin" / "python"
            if os.access(python, os.X_OK):
                return python
    own = os.path.realpath(os.path.join(sys.prefix, "bin")) if sys.prefix != sys.base_prefix else None
    places = [place for place in path.split(os.pathsep) if os.path.realpath(place) != own]
    machine = shutil.which("python3", path=os.pathsep.join(places))
    return Path(machine) if machine else None


def _can_import(python: Path, module: str, env: dict[str, str]) -> bool:
    return _answers([str(python), "-c", f"import {module}"], env)


def _answers(command: list[str], env: dict[str, str], cwd: str = "/") -> bool:
    try:
        done = subprocess.run(
            command,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _plan_npm(suite: Suite, top: Path, copy: Path, env: dict[str, str]) -> Plan:
    manifest = read_text(copy / suite.folder / "package.json")
    if match := INSTALLS.search(npm_script(manifest)):
        return Plan(
            suite=suite, missing=f"its script would install or download (it says {match[0].strip()!r})"
        )
    if shutil.which("npm", path=env["PATH"]) is None:
        return Plan(suite=suite, missing="npm is not installed")
    modules = top / suite.folder / "node_modules"
    if npm_needs_modules(manifest):
        if not modules.is_dir():
            return Plan(suite=suite, missing="its dependencies are not installed (no node_modules)")
        if not _copy_modules(modules, copy / suite.folder / "node_modules"):
            return Plan(
                suite=suite, missing=f"node_modules is too large to copy (over {MODULES_BYTES / 1e6:.0f} MB)"
            )
    return Plan(suite=suite, command=("npm", "test", "--silent"))


def _copy_modules(source: Path, target: Path) -> bool:
    """A copy, not a link: runners keep caches in node_modules, and the repository must not change."""
    total = 0
    for path, _, files in os.walk(source):
        for name in files:
            total += os.lstat(os.path.join(path, name)).st_size
        if total > MODULES_BYTES:
            return False
    if not target.exists():
        shutil.copytree(source, target, symlinks=True)
    return True


def _plan_go(suite: Suite, top: Path, copy: Path, env: dict[str, str]) -> Plan:
    if shutil.which("go", path=env["PATH"]) is None:
        return Plan(suite=suite, missing="go is not installed")
    cache = os.environ.get("GOMODCACHE") or os.path.join(os.path.expanduser("~"), "go", "pkg", "mod")
    more = {"GOMODCACHE": cache} if os.path.isdir(cache) else {}
    return Plan(suite=suite, command=("go", "test", "./..."), env=tuple(more.items()))


def _plan_cargo(suite: Suite, top: Path, copy: Path, env: dict[str, str]) -> Plan:
    if not _answers(["cargo", "--version"], env):
        return Plan(suite=suite, missing="cargo is not installed")
    return Plan(suite=suite, command=("cargo", "test", "--offline", "--quiet"))


def _plan_make(suite: Suite, top: Path, copy: Path, env: dict[str, str]) -> Plan:
    if shutil.which("make", path=env["PATH"]) is None:
        return Plan(suite=suite, missing="make is not installed")
    outcome = run_bounded(["make", "-n", suite.target], copy, env, PROBE_S, run=f"{copy}")
    if match := INSTALLS.search(outcome.output):
        return Plan(suite=suite, missing=f"it would install or download (it says {match[0].strip()!r})")
    return Plan(suite=suite, command=("make", suite.target))
