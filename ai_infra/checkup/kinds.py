"""Kinds of findings: how much each matters, what it is called, and what to do about it.

`rank` orders the report: 1 comes first. `severity` is the usual one; the part that finds it may say less (a
file of a test) or more. `title` names several of them, `action` is what a colleague would say to do.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What is true of every finding of a kind."""

    rank: int
    severity: str
    title: str
    action: str


def _kind(rank: int, severity: str, title: str, action: str) -> Kind:
    return Kind(rank=rank, severity=severity, title=title, action=action)


KINDS: dict[str, Kind] = {
    # secrets
    "secret": _kind(
        1,
        "fail",
        "credentials in the current files",
        "Revoke them where they were issued, then remove them from the files; the history keeps them.",
    ),
    "secret-in-history": _kind(
        6,
        "warn",
        "credentials in the history",
        "Revoke them where they were issued: whoever has a clone has them.",
    ),
    "credential-file": _kind(
        7,
        "warn",
        "tracked files that usually hold credentials",
        "Check the content; if real, revoke it, `git rm --cached` the file and add it to .gitignore.",
    ),
    "secret-in-test": _kind(
        30, "info", "credential-shaped values in tests and examples", "Make sure they are made up."
    ),
    "scan-bounded": _kind(
        60, "info", "limits of the scan", "Nothing to do; the part says what it did not look at."
    ),
    # inventory
    "remote-credential": _kind(
        1,
        "fail",
        "credentials in the git configuration",
        "Revoke it, set the address without it (`git remote set-url`), and use a credential helper.",
    ),
    "unmerged": _kind(2, "fail", "unfinished merges", "Resolve the conflict and commit, or abort the merge."),
    "no-licence": _kind(
        12, "warn", "no licence", "Add a LICENSE file; without one nobody else may use the code."
    ),
    "licence-mismatch": _kind(
        12, "warn", "contradicting licences", "Make the metadata and the LICENSE file agree."
    ),
    "licence-unknown": _kind(
        25, "info", "unrecognized licence texts", "Read it; the detector knows common ones only."
    ),
    "uncommitted": _kind(40, "info", "uncommitted changes", "Commit, stash or discard them."),
    "unpushed": _kind(41, "info", "commits not pushed", "Push them, or they exist on this machine only."),
    "shallow": _kind(
        45, "info", "shallow clone", "`git fetch --unshallow` for figures over the whole history."
    ),
    "no-commits": _kind(
        20, "warn", "no commits", "Commit something; until then there is nothing to measure."
    ),
    "dormant": _kind(42, "info", "no recent commits", "Ask whether the project is still looked after."),
    "bus-factor": _kind(
        28, "info", "knowledge in one head", "Let a second person review and change the parts that matter."
    ),
    "no-readme": _kind(29, "info", "no README", "Add one: what it is, how to run it, how to test it."),
    "submodule-unknown": _kind(
        14, "warn", "submodules without an address", "Add the entry to .gitmodules, or remove the gitlink."
    ),
    "damaged": _kind(
        3, "fail", "damaged repository data", "Run `git fsck` and fetch the missing objects again."
    ),
    # measures
    "complex-function": _kind(
        22, "info", "functions with very many branches", "Split them; begin with those that change often."
    ),
    "long-function": _kind(24, "info", "very long functions", "Split them along the comments inside."),
    "hot-spot": _kind(
        23, "info", "hot spots", "Large and often changed: tests and clean-up pay off here first."
    ),
    "duplicate": _kind(
        27, "info", "files with the same content", "Keep one; let the others go or refer to it."
    ),
    "history-cut": _kind(
        61, "info", "history not read to its end", "Nothing to do; figures cover the newest commits."
    ),
    # lint
    "merge-conflict": _kind(
        2, "fail", "files with merge-conflict markers", "Resolve the conflict and commit."
    ),
    "python-syntax": _kind(
        5, "fail", "Python files that do not compile", "Fix the syntax; nothing can import them."
    ),
    "python-2": _kind(18, "warn", "Python 2 files", "Port or remove them; no supported Python runs them."),
    "json-syntax": _kind(5, "fail", "unparsable JSON files", "Fix the syntax."),
    "yaml-syntax": _kind(5, "fail", "unparsable YAML files", "Fix the syntax."),
    "toml-syntax": _kind(5, "fail", "unparsable TOML files", "Fix the syntax."),
    "xml-syntax": _kind(5, "fail", "XML files that are not well-formed", "Fix the markup."),
    "ini-syntax": _kind(5, "fail", "unparsable INI files", "Fix the syntax."),
    "shell-syntax": _kind(
        5, "fail", "shell scripts with syntax errors", "Fix the syntax; `bash -n FILE` shows it."
    ),
    "javascript-syntax": _kind(5, "fail", "JavaScript files that do not compile", "Fix the syntax."),
    "broken-test-data": _kind(
        58, "info", "unparsable files among test data", "Nothing to do if they are meant to be."
    ),
    "not-judged": _kind(
        62, "info", "files that could not be judged here", "Nothing to do; the message says why."
    ),
    "undefined-name": _kind(
        8,
        "warn",
        "names that are defined nowhere",
        "Import or define them: reaching the line raises NameError.",
    ),
    "shadowed-definition": _kind(
        9,
        "warn",
        "definitions that replace an earlier one",
        "Rename one; the first (a test, often) never runs.",
    ),
    "duplicate-key": _kind(
        10, "warn", "keys given twice", "Remove one; which of them wins depends on the reader."
    ),
    "likely-bug": _kind(9, "warn", "likely bugs", "Read the line; the message says what it really does."),
    "invalid-escape": _kind(
        33,
        "info",
        "invalid escape sequences in Python strings",
        "Use a raw string; a later Python refuses these.",
    ),
    "mutable-default": _kind(
        13,
        "info",
        "mutable default arguments",
        "Default to None and make the value inside; calls share it now.",
    ),
    "eval": _kind(
        11, "warn", "eval or exec of computed text", "Make sure no outside input reaches it; prefer parsing."
    ),
    "bare-except": _kind(
        31, "info", "bare except clauses", "Name the exception; this one swallows Ctrl-C as well."
    ),
    "unused-import": _kind(34, "info", "unused imports", "Remove them (`ruff check --select F401 --fix`)."),
    "mixed-indent": _kind(32, "info", "Python files indented with both tabs and spaces", "Use spaces only."),
    "nul-bytes": _kind(
        15, "warn", "text files with NUL bytes", "Restore or convert them; most tools take them as binary."
    ),
    "not-utf-8": _kind(36, "info", "source files that are not UTF-8", "Convert them (`iconv`)."),
    "mixed-line-ends": _kind(
        37, "info", "files with mixed line ends", "Normalize them; `* text=auto` in .gitattributes."
    ),
    "long-lines": _kind(
        38, "info", "source files with very long lines", "Wrap them, or mark the file as generated."
    ),
    "broken-link": _kind(16, "warn", "broken relative links in Markdown", "Correct the target."),
    "broken-symlink": _kind(14, "warn", "broken symbolic links", "Correct or remove them."),
    "outside-symlink": _kind(
        17, "warn", "symbolic links that leave the repository", "Make them relative to the tree."
    ),
    "large-file": _kind(19, "warn", "large tracked files", "Move them to Git LFS or an artifact store."),
    "missing-file": _kind(
        39, "info", "tracked files that are not on disk", "Restore or commit the deletion."
    ),
    "case-clash": _kind(
        17, "warn", "names that differ in case only", "Rename one; macOS and Windows cannot check both out."
    ),
    "executable-no-shebang": _kind(
        35, "info", "executable text files without a shebang", "Add `#!…` or drop the executable bit."
    ),
    "shebang-not-executable": _kind(
        35,
        "info",
        "scripts with a shebang that are not executable",
        "`git update-index --chmod=+x`, or drop the line.",
    ),
    # tests
    "tests-failed": _kind(
        3, "fail", "failing tests", "Fix the code or the test; the names are in the tests part."
    ),
    "suite-failed": _kind(3, "fail", "test suites that failed", "Run the command shown and read its output."),
    "suite-timeout": _kind(
        21, "info", "test suites that did not end in time", "Run them by hand, or name a quick subset."
    ),
    "suite-not-run": _kind(
        26,
        "info",
        "test suites that could not run here",
        "Install what is missing and check again, or run them by hand.",
    ),
    "suite-note": _kind(59, "info", "notes on the test run", "Nothing to do."),
    "no-tests": _kind(20, "info", "no test suite found", "Add a first test where a mistake would cost most."),
    # host
    "disk": _kind(
        6, "warn", "file systems that are nearly full", "Free some space before writes begin to fail."
    ),
    "inodes": _kind(
        7, "warn", "file systems nearly out of inodes", "Remove many small files (caches, sessions, mail)."
    ),
    "memory": _kind(8, "warn", "memory nearly used up", "Find the largest processes (`ps --sort -rss`)."),
    "swap": _kind(
        21, "warn", "swap nearly used up", "Find what was swapped out; add memory or reduce the load."
    ),
    "load": _kind(21, "warn", "more work than cores", "Find the busiest processes (`top`)."),
    "open-port": _kind(
        9,
        "warn",
        "services without login of their own, open on every interface",
        "Bind it to 127.0.0.1 or put it behind the firewall.",
    ),
    "ports": _kind(50, "info", "listening ports", "Compare with what this machine is for."),
    "certificate-expired": _kind(4, "fail", "expired certificates", "Renew them."),
    "certificate-expires": _kind(
        7, "warn", "certificates about to expire", "Renew them, and check the automatic renewal."
    ),
    "failed-unit": _kind(
        11, "warn", "failed systemd units", "`systemctl status UNIT`, `journalctl -u UNIT`."
    ),
    "reboot": _kind(33, "warn", "pending reboot", "Plan a reboot; updates are installed but not in use."),
    # report
    "part-missing": _kind(
        10, "warn", "parts without a result", "See the task of that part; run it again alone."
    ),
}
