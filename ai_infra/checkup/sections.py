"""Sections: the tables that follow a part's findings in the report. Pure; reads the `data` of PART.json.

A section must not fail on data of an older or a damaged file: what is missing is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ai_infra.checkup.findings import plural
from ai_infra.checkup.host import size
from ai_infra.checkup.markdown import block, cell, code, table, text

Data = Mapping[str, Any]

ROWS = 5  #: of a table in the report; the JSON file has more
LANGUAGES = 8
TAIL_LINES = 15
PORTS = 20

_HEADS = {
    "code_lines": "lines of code",
    "comment_lines": "comment lines",
    "comment_percent": "% comments",
    "test_percent": "% tests",
    "percent": "%",
    "last_change": "last change",
    "max_indent": "deepest indent",
}


def section(part: str, data: Data) -> list[str]:
    """The lines of one part's tables; empty when there is nothing to show."""
    writer = _SECTIONS.get(part)
    if writer is None:
        return []
    try:
        lines = writer(data)
    except (KeyError, TypeError, ValueError, AttributeError):
        return ["", f"The tables of {part} cannot be shown: `{part}.json` is not as expected."]
    return ["", *lines] if lines else []


def _inventory(data: Data) -> list[str]:
    facts = [
        *_past(data["history"]),
        ("licence", _licence(data)),
        ("size", _sizes(data)),
        ("branch", _branch(data)),
    ]
    facts.append(("remotes", ", ".join(data["remotes"]) or "none"))
    if data["submodules"]:
        facts.append(("submodules", ", ".join(data["submodules"][:ROWS])))
    languages = [
        (text(r["language"]), r["files"], r["lines"], size(r["size_bytes"])) for r in data["languages"]
    ]
    largest = [(code(row["file"]), size(row["size_bytes"])) for row in data["largest"][:ROWS]]
    return [
        *table(("", ""), [(name, text(words)) for name, words in facts]),
        "",
        *table(("language", "files", "lines", "size"), languages[:LANGUAGES]),
        "",
        *table(("largest files", "size"), largest),
    ]


def _past(past: Data) -> list[tuple[str, str]]:
    if not past["commits"]:
        return []
    bots = f" and {plural(past['bots'], 'bot')}" if past["bots"] else ""
    shallow = " (shallow clone)" if past.get("shallow") else ""
    active = f"{plural(past['active_commits'], 'commit')} by {plural(past['active_authors'], 'author')}"
    return [
        ("history", f"{plural(past['commits'], 'commit')}, {past['first_at']} to {past['last_at']}{shallow}"),
        ("last 90 days", active),
        ("authors", f"{past['authors']:,}{bots}; most commits: {_authors(past['top'])}"),
        ("bus factor", f"{past['bus_factor']} ({past['bus_window']})"),
    ][: 1 if shallow else None]


def _licence(data: Data) -> str:
    texts = [f"{row['licence'] or 'unrecognized'} ({row['file']})" for row in data["licences"][:4]]
    return ", ".join(texts or [f"{v} ({k})" for k, v in data["metadata_licences"].items()]) or "none"


def _sizes(data: Data) -> str:
    files = f"{size(data['size_bytes'])} in {plural(data['files'], 'file')}"
    return f"{files}, {size(data['git_bytes'])} of git objects"


def _branch(data: Data) -> str:
    here = f"{data['branch'] or 'detached HEAD'}; default: {data['default_branch'] or 'unknown'}"
    return (
        f"{here}; {plural(data['branches'], 'local branch', 'local branches')}, {plural(data['tags'], 'tag')}"
    )


def _authors(top: list[Any]) -> str:
    return ", ".join(f"{name} ({count:,})" for name, count in top[:ROWS])


def _measures(data: Data) -> list[str]:
    answers, lines = data["answers"], []
    for name in ("languages", "hot_spots", "largest", "longest_functions", "complex_functions", "untouched"):
        bound = LANGUAGES if name == "languages" else ROWS
        if answers[name]["rows"]:
            lines += [f"**{text(answers[name]['title'])}**", "", *_answer(answers[name], bound), ""]
    share = dict(
        zip(answers["untouched_share"]["columns"], answers["untouched_share"]["rows"][0], strict=True)
    )
    if share["untouched"]:
        files = f"{share['untouched']:,} of {plural(share['files'], 'source file')}"
        lines.append(f"Nobody touched {files} for a year: {share['percent_of_code']:.0f} % of the code.")
    return [*lines, f"All measures are in `{text(data['database'])}` (tables `files` and `functions`)."]


def _answer(answer: Data, rows: int) -> list[str]:
    columns = answer["columns"]
    heads = [_HEADS.get(column, column) for column in columns]
    return table(
        heads, [[cell(c, v) for c, v in zip(columns, row, strict=True)] for row in answer["rows"][:rows]]
    )


def _lint(data: Data) -> list[str]:
    parsed = ", ".join(f"{name} {count:,}" for name, count in data["parsed"].items())
    return [f"Files parsed: {text(parsed)}."] if parsed else []


def _tests(data: Data) -> list[str]:
    rows = [_suite(suite) for suite in data["suites"]]
    lines = table(("suite", "result", "counts", "took", "command"), rows)
    for suite in data["suites"]:
        if suite["ending"] == "failed" and suite["tail"]:
            tail = "\n".join(suite["tail"].splitlines()[-TAIL_LINES:])
            lines += ["", f"Last lines of {code(suite['name'])}:", "", *block(tail)]
    return lines


def _suite(suite: Data) -> tuple[str, ...]:
    took, command = f"{suite['took_s']:.1f} s", code(" ".join(suite["command"]))
    return code(suite["name"]), suite["ending"], text(_counts(suite)), took, command


def _counts(suite: Data) -> str:
    said = ", ".join(f"{count:,} {name}" for name, count in suite["counts"].items() if count)
    return said or suite["reason"]


def _secrets(data: Data) -> list[str]:
    harmless = (
        f", {plural(data['marked_harmless'], 'line')} marked as harmless" if data["marked_harmless"] else ""
    )
    looked = f"{plural(data['files'], 'file')}, the added lines of {plural(data['commits'], 'commit')}"
    return [f"Scanned: {looked}{harmless}."]


def _host(data: Data) -> list[str]:
    disks = table(
        ("file system", "size", "free", "% used", "% inodes"), [_disk(disk) for disk in data["disks"]]
    )
    swap = f"{data['swap_percent']:.0f} % of {size(data['swap_bytes'])}" if data["swap_bytes"] else "none"
    memory = f"Memory: {data['memory_percent']:.0f} % of {size(data['memory_bytes'])} used; swap: {swap}"
    load = " ".join(f"{value:.2f}" for value in data["load"])
    ports = table(("port", "address", "process"), [_port(port) for port in data["ports"][:PORTS]])
    if len(data["ports"]) > PORTS:
        ports += ["", f"and {len(data['ports']) - PORTS} more ports in `host.json`"]
    ends = [(code(c["file"]), text(c["name"]), c["ends_at"][:10]) for c in data["certificates"][:ROWS]]
    return [
        *disks,
        "",
        f"{memory}; load: {load} on {plural(data['cores'], 'core')}.",
        "",
        *ports,
        "",
        *table(("certificates that end first", "name", "ends"), ends),
    ]


def _disk(disk: Data) -> tuple[object, ...]:
    place, total, free = code(disk["mount"]), size(disk["total_bytes"]), size(disk["free_bytes"])
    return place, total, free, disk["used_percent"], disk["inodes_percent"]


def _port(port: Data) -> tuple[str, ...]:
    return f"{port['port']}/{port['protocol']}", code(port["address"]), text(port["process"] or "not visible")


_SECTIONS: dict[str, Callable[[Data], list[str]]] = {
    "inventory": _inventory,
    "measures": _measures,
    "lint": _lint,
    "tests": _tests,
    "secrets": _secrets,
    "host": _host,
}
