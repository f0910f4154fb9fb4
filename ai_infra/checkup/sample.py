"""Sample: a small git repository with known strengths and faults, for a first look and for tests.

Every part of the check-up has something to find in it. Nothing in it is secret or copied.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from ai_infra.checkup.git import GitFailed, environment
from ai_infra.core.errors import Conflict, SystemProblem

AUTHOR = ("Sample Author", "author@sample.invalid")


class Builder:
    """Writes a repository, commit by commit, whatever the user's own git settings are."""

    def __init__(self, folder: Path, *, object_format: str = "sha1") -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.git(
            "init", "--quiet", "--template=", "--initial-branch=main", f"--object-format={object_format}"
        )

    def git(self, *args: str, at_s: int | None = None, author: tuple[str, str] = AUTHOR) -> bytes:
        """The output of one git command in the repository. Raises GitFailed."""
        name, email = author
        env = environment()
        for who in ("AUTHOR", "COMMITTER"):
            env |= {f"GIT_{who}_NAME": name, f"GIT_{who}_EMAIL": email}
            if at_s is not None:
                env[f"GIT_{who}_DATE"] = f"@{at_s} +0000"
        command = [
            "git",
            "-c",
            "core.hooksPath=/dev/null",
            "-c",
            "commit.gpgSign=false",
            "-c",
            "gc.auto=0",
            *args,
        ]
        try:
            done = subprocess.run(
                command, cwd=self.folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False
            )
        except OSError as exc:
            raise SystemProblem(
                f"git could not be started: {exc.strerror}; install the package `git`"
            ) from exc
        if done.returncode != 0:
            raise GitFailed(f"git {args[0]}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout

    def write(self, files: Mapping[str, str | bytes]) -> None:
        """Write files of the working tree, with the folders they need."""
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def commit(
        self,
        files: Mapping[str, str | bytes] | None = None,
        message: str = "Change",
        *,
        at_s: int | None = None,
        author: tuple[str, str] = AUTHOR,
    ) -> str:
        """Write the files, commit everything there is, and give the commit's name."""
        self.write(files or {})
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", message, at_s=at_s, author=author)
        return self.git("rev-parse", "HEAD").decode().strip()


def make_sample(folder: Path) -> Path:
    """A new repository in `folder`, which must be absent or empty. Raises Conflict."""
    if folder.exists() and any(folder.iterdir()):
        raise Conflict(f"{folder}: not empty; name a folder that does not exist yet")
    builder = Builder(folder)
    builder.commit(_BEGINNING, "Count words")
    builder.commit(_TESTED, "Test the counting")
    builder.write({"bin/count": _SCRIPT})
    os.chmod(folder / "bin" / "count", 0o755)
    builder.commit(_FAULTS, "Read settings")
    return folder


_BEGINNING = {
    "README.md": "# Word count\n\nSee [how to use it](docs/usage.md) and [the plan](docs/plan.md).\n",
    "wordcount/__init__.py": '"""Counts words."""\n',
    "wordcount/count.py": '''"""Counting."""

import os
import re


def count(text, seen={}):
    """How often each word stands in a text."""
    for word in re.findall(r"\\w+", text.lower()):
        seen[word] = seen.get(word, 0) + 1
    return seen
''',
    "docs/usage.md": "# How to use it\n\n    bin/count FILE\n",
}
_TESTED = {
    "tests/test_count.py": """import unittest

from wordcount.count import count


class Counting(unittest.TestCase):
    def test_words_are_counted(self):
        self.assertEqual(count("one two one"), {"one": 2, "two": 1})

    def test_every_call_begins_anew(self):
        self.assertEqual(count("three"), {"three": 1})
""",
}
_FAULTS = {
    "wordcount/report.py": "def report(counts):\n    return sorted(count.items())\n",
    "wordcount/broken.py": "def unfinished(:\n    pass\n",
    "settings.json": '{"limit": 10, "limit": 20}\n',
    "deploy.yaml": "steps:\n  - name: build\n run: make\n",
}
_SCRIPT = """#!/usr/bin/env python3
import sys

from wordcount.count import count

for word, number in sorted(count(open(sys.argv[1]).read()).items()):
    print(number, word)
"""
