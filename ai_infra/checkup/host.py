"""Host: whether the machine under the repository is fit to work.

Disk, memory, load, ports, certificates, services.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ai_infra.checkup import certificates
from ai_infra.checkup.certificates import Certificate
from ai_infra.checkup.findings import Finding, PartResult, Severity, bounded, found, plural, verdict_of
from ai_infra.checkup.git import Repo
from ai_infra.checkup.languages import is_test
from ai_infra.checkup.machine import Disk, Machine, Port, read_machine
from ai_infra.checkup.tracked import Tracked, list_tracked

DISK_WARN, DISK_FAIL = 85.0, 95.0  #: per cent used
MEMORY_WARN, MEMORY_FAIL = 80.0, 95.0
SWAP_WARN = 80.0
LOAD_PER_CORE = 2.0  #: over 15 minutes
PORTS_SAID = 12

# Services that trust whoever reaches them, unless somebody changed their settings.
_TRUSTING = {
    2375: "Docker", 2379: "etcd", 3306: "MySQL", 5432: "PostgreSQL", 5601: "Kibana", 5984: "CouchDB",
    6333: "Qdrant", 6379: "Redis", 6380: "Redis", 8086: "InfluxDB", 8888: "Jupyter", 9042: "Cassandra",
    9090: "Prometheus", 9200: "Elasticsearch", 10250: "kubelet", 11211: "memcached", 27017: "MongoDB",
}  # fmt: skip


def run(repo: Repo, out: Path, say: Any) -> PartResult:
    """The part `host`."""
    now_s = time.time()
    machine = read_machine([repo.top, out], now_s)
    found_certificates = [
        c for path in certificates.machine_files(Path("/etc")) for c in certificates.read_certificates(path)
    ]
    found_certificates += repo_certificates(list_tracked(repo))
    return judge(machine, found_certificates, datetime.fromtimestamp(now_s, UTC))


def repo_certificates(tracked: Tracked) -> list[Certificate]:
    """Certificates among the tracked files; those of tests are old or wrong on purpose."""
    wanted = tuple(
        e for e in tracked.entries if certificates.is_certificate_name(e.path) and not is_test(e.path)
    )
    contents = Tracked(repo=tracked.repo, entries=wanted, unmerged=()).contents()
    return [
        certificate
        for content in contents
        for certificate in certificates.parse_certificates(
            content.entry.path, content.data or b"", in_repo=True
        )
    ]


def judge(machine: Machine, found_certificates: Sequence[Certificate], now: datetime) -> PartResult:
    """Findings, from the facts alone."""
    findings = [
        *_judge_disks(machine.disks),
        *_judge_memory(machine),
        *_judge_load(machine),
        *_judge_ports(machine.ports),
        *certificates.judge_certificates(found_certificates, now),
        *_judge_system(machine),
    ]
    kept, counts = bounded(findings)
    return PartResult(
        part="host",
        verdict=verdict_of(findings),
        summary=_summary(machine, found_certificates),
        findings=kept,
        data=asdict(machine)
        | {
            "ports": [asdict(port) | {"everywhere": port.everywhere} for port in machine.ports],
            "certificates": [
                {"file": c.file, "name": c.name, "ends_at": c.ends_at.isoformat(), "in_repo": c.in_repo}
                for c in sorted(found_certificates, key=lambda c: c.ends_at)[:50]
            ],
            "counts": counts,
        },
    )


def _judge_disks(disks: Iterable[Disk]) -> Iterator[Finding]:
    for disk in disks:
        words = f"{disk.used_percent:.0f} % of {size(disk.total_bytes)} used, {size(disk.free_bytes)} free"
        if (severity := _level(disk.used_percent, DISK_WARN, DISK_FAIL)) is not None:
            yield found("disk", f"{disk.mount}: {words}", severity=severity)
        if disk.inodes_percent is not None:
            severity = _level(disk.inodes_percent, DISK_WARN, DISK_FAIL)
            if severity is not None:
                yield found(
                    "inodes",
                    f"{disk.mount}: {disk.inodes_percent:.0f} % of the inodes used",
                    severity=severity,
                )


def _judge_memory(machine: Machine) -> Iterator[Finding]:
    severity = _level(machine.memory_percent, MEMORY_WARN, MEMORY_FAIL)
    if severity is not None:
        words = f"{machine.memory_percent:.0f} % of {size(machine.memory_bytes)} memory in use"
        yield found("memory", words, severity=severity)
    if machine.swap_bytes and machine.swap_percent >= SWAP_WARN:
        yield found("swap", f"{machine.swap_percent:.0f} % of {size(machine.swap_bytes)} swap in use")


def _judge_load(machine: Machine) -> Iterator[Finding]:
    if machine.load[2] > LOAD_PER_CORE * machine.cores:
        words = (
            f"{machine.load[2]:.1f} processes wanted to run on {plural(machine.cores, 'core')} (15 minutes)"
        )
        yield found("load", words)


def _judge_ports(ports: Sequence[Port]) -> Iterator[Finding]:
    for port in ports:
        service = _TRUSTING.get(port.port)
        if service and port.everywhere and port.protocol == "tcp":
            words = f"port {port.port} ({port.process or service}) is open on every interface"
            yield found("open-port", words)
    everywhere = list(
        dict.fromkeys(f"{p.port}/{p.protocol} {p.process or '?'}" for p in ports if p.everywhere)
    )
    if everywhere:
        more = f" and {len(everywhere) - PORTS_SAID} more" if len(everywhere) > PORTS_SAID else ""
        yield found("ports", f"open on every interface: {', '.join(everywhere[:PORTS_SAID])}{more}")


def _judge_system(machine: Machine) -> Iterator[Finding]:
    for unit in machine.failed_units:
        yield found("failed-unit", f"systemd unit {unit} has failed")
    if machine.reboot_packages is not None:
        packages = ", ".join(machine.reboot_packages[:8])
        yield found("reboot", f"a reboot is pending{f' for {packages}' if packages else ''}")


def _level(percent: float, warn: float, fail: float) -> Severity | None:
    if percent >= fail:
        return Severity.FAIL
    return Severity.WARN if percent >= warn else None


def _summary(machine: Machine, found_certificates: Sequence[Certificate]) -> str:
    fullest = max(machine.disks, key=lambda disk: disk.used_percent, default=None)
    disk = f"disk {fullest.mount} {fullest.used_percent:.0f} %" if fullest else "no disks seen"
    parts = [
        f"{disk} full, memory {machine.memory_percent:.0f} % used",
        f"load {machine.load[0]:.1f} on {plural(machine.cores, 'core')}",
        plural(len(machine.ports), "listening port"),
        plural(len(found_certificates), "certificate"),
        f"up {_span(machine.uptime_s)}",
    ]
    return ", ".join(parts)


def size(count: int) -> str:
    """Bytes for people: 1.5 GB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit in ("B", "kB") or value >= 100 else f"{value:.1f} {unit}"


def _span(seconds: float) -> str:
    if seconds >= 2 * 86_400:
        return f"{seconds / 86_400:.0f} days"
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.0f} minutes"
