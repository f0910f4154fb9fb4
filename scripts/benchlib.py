"""What the benchmarks share: interleaved rounds, measures with budgets, the machine, one report.

A benchmark informs: over a budget is said, never failed. Exit codes: 0 measured, 1 something did not run,
2 wrong flag, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai_infra.core.errors import AiInfraError


class BenchError(Exception):
    """Something that should be measured did not run."""


# -- measures -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One thing measured in several rounds; its figure is the median."""

    name: str
    unit: str
    samples: tuple[float, ...]
    budget: float | None = None  #: at most this, or at least, if more is better; None: for information
    more_is_better: bool = False

    @property
    def median(self) -> float:
        """The figure."""
        return statistics.median(self.samples)

    @property
    def verdict(self) -> str:
        """`ok`, `over` (or `under`, where more is better); empty without a budget."""
        if self.budget is None:
            return ""
        if self.more_is_better:
            return "ok" if self.median >= self.budget else "under"
        return "ok" if self.median <= self.budget else "over"

    def as_json(self) -> dict[str, Any]:
        """All of it, the samples too."""
        return {
            "name": self.name,
            "unit": self.unit,
            "median": self.median,
            "min": min(self.samples),
            "max": max(self.samples),
            "samples": list(self.samples),
            "budget": self.budget,
            "more_is_better": self.more_is_better,
            "verdict": self.verdict or None,
        }

    def cells(self) -> tuple[str, ...]:
        """A row of the table."""
        limit = "" if self.budget is None else f"{'≥' if self.more_is_better else '≤'} {self.budget:g}"
        span = f"{number(min(self.samples))} … {number(max(self.samples))}" if len(self.samples) > 1 else ""
        return (self.name, number(self.median), self.unit, span, limit, self.verdict)


def measure(name: str, unit: str, samples: Iterable[float], **more: Any) -> Measure:
    """A Measure with its samples rounded to what a clock can tell."""
    return Measure(name=name, unit=unit, samples=tuple(round(s, 4) for s in samples), **more)


def ratio(name: str, above: Measure, below: Measure, budget: float | None = None) -> Measure:
    """The quotient of two figures."""
    return measure(name, "x", [above.median / below.median], budget=budget)


def interleaved(rounds: int, works: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Each work once per round, A B C A B C: what slows the machine for a while slows all of them."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for i in range(rounds):
        for name, work in works.items():
            say(f"round {i + 1} of {rounds}: {name}")
            found[name].append(work())
    return found


def number(value: float) -> str:
    """Three digits that count."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 or not value else 3
    return f"{value:.{digits}f}"


# -- the report -----------------------------------------------------------------------------------------


def machine_facts() -> dict[str, str]:
    """What the figures depend on; nothing that names this machine."""
    load_1min, _, _ = os.getloadavg()
    return {
        "cpu": _cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "tmux": _said("tmux", "-V").removeprefix("tmux "),
        "redis": next((w[2:] for w in _said("redis-server", "--version").split() if w[:2] == "v="), "none"),
        "load before": f"{load_1min:.1f}",
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _said(*argv: str) -> str:
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=10).stdout.strip()
    except OSError:
        return "none"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one benchmark found."""

    bench: str
    rounds: int
    machine: Mapping[str, str]  #: from before the first round, so that its load is not ours
    measures: Sequence[Measure]
    details: Mapping[str, Any]  #: for JSON: whatever is not a figure with a budget
    more: str = ""  #: for people: text that stands below the table

    def print(self, as_json: bool) -> None:
        """One JSON document, or a table for people."""
        if as_json:
            rows = [row.as_json() for row in self.measures]
            about = {"bench": self.bench, "rounds": self.rounds, "machine": dict(self.machine)}
            print(json.dumps({**about, "measures": rows, **self.details}, indent=2, ensure_ascii=False))
            return
        head = ("measure", "median", "", "min … max", "budget", "")
        print(", ".join(f"{name} {value}" for name, value in self.machine.items()), end="\n\n")
        print(table([head, *(row.cells() for row in self.measures)], right=(1, 4)))
        if self.more:
            print(f"\n{self.more}")


def table(rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> str:
    """Columns, as wide as they must be; the first row is the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        sized = enumerate(zip(row, widths, strict=True))
        return "  ".join(c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in sized).rstrip()

    return "\n".join([line(rows[0]), "  ".join("-" * w for w in widths), *map(line, rows[1:])])


def say(words: str) -> None:
    """Progress, for whoever watches."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{words}", end="", file=sys.stderr, flush=True)


# -- the rim --------------------------------------------------------------------------------------------


def main(
    about: str,
    bench: Callable[[argparse.Namespace], Report],
    *,
    rounds: int,
    options: Callable[[argparse.ArgumentParser], None] | None = None,
) -> int:
    """Parse, measure, print; the exit code."""
    parser = argparse.ArgumentParser(description=about, allow_abbrev=False)
    parser.add_argument("--rounds", type=positive, default=rounds, help="default: %(default)s")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON instead of a table")
    if options is not None:
        options(parser)
    args = parser.parse_args()
    for signal_ in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signal_, _as_interrupt)
    try:
        report = bench(args)
    except (BenchError, AiInfraError) as exc:
        say("")
        print(f"{Path(sys.argv[0]).name}: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("")
        return 130
    say("")
    report.print(args.as_json)
    return 0


def positive(text: str) -> int:
    """A whole number above zero, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _as_interrupt(*_: object) -> None:
    raise KeyboardInterrupt
