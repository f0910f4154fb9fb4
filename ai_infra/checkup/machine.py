"""Machine: what this host says about itself, read once. No judgement here."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

SYSTEMD_S = 5.0

_NOT_REAL = {
    "squashfs",
    "iso9660",
    "udf",
    "erofs",
    "cramfs",
    "overlay",
    "autofs",
    "devtmpfs",
    "tmpfs",
    "proc",
    "sysfs",
}


@dataclass(frozen=True, kw_only=True)
class Disk:
    """One real file system."""

    mount: str
    kind: str
    total_bytes: int
    free_bytes: int  #: for an ordinary user
    used_percent: float
    inodes_percent: float | None  #: None: the file system makes inodes as it needs them


@dataclass(frozen=True, kw_only=True)
class Port:
    """A socket that waits for others."""

    protocol: str  #: tcp or udp
    address: str
    port: int
    process: str | None  #: None: belongs to another user

    @property
    def everywhere(self) -> bool:
        """Reachable over every interface."""
        return self.address in ("0.0.0.0", "::", "*", "")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A snapshot."""

    host: str
    cores: int
    load: tuple[float, float, float]
    uptime_s: float
    memory_bytes: int
    memory_percent: float  #: what cannot be given to a new program
    limit_bytes: int | None  #: of the container or slice, when it is below the memory
    swap_bytes: int
    swap_percent: float
    disks: tuple[Disk, ...]
    ports: tuple[Port, ...]
    ports_complete: bool  #: the owner of every socket could be seen
    failed_units: tuple[str, ...]
    systemd: bool
    reboot_packages: tuple[str, ...] | None  #: None: no reboot is pending


def read_machine(places: Iterable[Path], now_s: float) -> Machine:
    """Ask the system; `places` are folders whose file systems matter whatever they are."""
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    ports = read_ports()
    return Machine(
        host=socket.gethostname(),
        cores=len(os.sched_getaffinity(0)),
        load=os.getloadavg(),
        uptime_s=max(0.0, now_s - psutil.boot_time()),
        memory_bytes=memory.total,
        memory_percent=memory.percent,
        limit_bytes=_memory_limit(memory.total),
        swap_bytes=swap.total,
        swap_percent=swap.percent,
        disks=tuple(read_disks(places)),
        ports=tuple(ports),
        ports_complete=all(port.process is not None for port in ports),
        failed_units=tuple(_failed_units()),
        systemd=_has_systemd(),
        reboot_packages=_pending_reboot(),
    )


def read_disks(places: Iterable[Path]) -> list[Disk]:
    """Every local file system that holds data, and those under `places`, each once."""
    mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=False)}
    mounts = {mount: kind for mount, kind in mounts.items() if kind not in _NOT_REAL}
    everything = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    for place in [Path("/"), *places]:
        mount = _mount_of(place)
        mounts.setdefault(mount, everything.get(mount, "unknown"))
    disks: dict[int, Disk] = {}
    for mount, kind in sorted(mounts.items(), key=lambda item: (len(item[0]), item[0])):
        with contextlib.suppress(OSError):
            if os.path.isdir(mount):  # a single file mounted into a container is no disk
                disks.setdefault(os.stat(mount).st_dev, _disk(mount, kind))
    return list(disks.values())


def read_ports() -> list[Port]:
    """Listening TCP sockets and bound UDP sockets without a peer, each once, by number."""
    names: dict[int, str | None] = {}
    ports: dict[tuple[str, str, int], Port] = {}
    try:
        sockets = psutil.net_connections(kind="inet")
    except (psutil.Error, OSError):
        return []
    for item in sockets:
        tcp = item.type == socket.SOCK_STREAM
        listening = item.status == psutil.CONN_LISTEN if tcp else not item.raddr
        if listening and item.laddr:
            process = names.setdefault(item.pid, _process_name(item.pid)) if item.pid else None
            port = Port(
                protocol="tcp" if tcp else "udp", address=item.laddr.ip, port=item.laddr.port, process=process
            )
            ports[port.protocol, port.address, port.port] = port
    return sorted(ports.values(), key=lambda port: (port.port, port.protocol, port.address))


def _disk(mount: str, kind: str) -> Disk:
    status = os.statvfs(mount)
    used = status.f_blocks - status.f_bfree
    usable = used + status.f_bavail  # what root keeps back is not free for anybody else
    inodes = 100 * (status.f_files - status.f_ffree) / status.f_files if status.f_files else None
    return Disk(
        mount=mount,
        kind=kind,
        total_bytes=status.f_blocks * status.f_frsize,
        free_bytes=status.f_bavail * status.f_frsize,
        used_percent=round(100 * used / usable, 1) if usable else 0.0,
        inodes_percent=None if inodes is None else round(inodes, 1),
    )


def _mount_of(place: Path) -> str:
    path = os.path.realpath(place)
    while not os.path.ismount(path):
        path = os.path.dirname(path)
    return path


def _process_name(pid: int) -> str | None:
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return None


def _memory_limit(total: int) -> int | None:
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limit = int(Path("/sys/fs/cgroup", name).read_text("ascii"))
            return limit if limit < total else None
    return None


def _has_systemd() -> bool:
    return os.path.isdir("/run/systemd/system") and shutil.which("systemctl") is not None


def _failed_units() -> list[str]:
    if not _has_systemd():
        return []
    command = ["systemctl", "list-units", "--state=failed", "--no-legend", "--plain", "--no-pager"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SYSTEMD_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = done.stdout.decode("utf-8", "replace").splitlines() if done.returncode == 0 else []
    return [line.split()[0] for line in lines if line.split()]


def _pending_reboot() -> tuple[str, ...] | None:
    for folder in ("/run", "/var/run"):
        if os.path.exists(f"{folder}/reboot-required"):
            with contextlib.suppress(OSError):
                text = Path(folder, "reboot-required.pkgs").read_text("utf-8", "replace")
                return tuple(dict.fromkeys(text.split()))
            return ()
    return None
