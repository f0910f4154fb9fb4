"""The host part: judging a machine's facts, and reading certificates."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ai_infra.checkup.certificates import (
    Certificate,
    judge_certificates,
    machine_files,
    parse_certificates,
    read_certificates,
    read_der,
)
from ai_infra.checkup.host import judge, size
from ai_infra.checkup.machine import Disk, Machine, Port

NOW = datetime(2030, 1, 1, tzinfo=UTC)
GB = 10**9
DISK = Disk(
    mount="/", kind="ext4", total_bytes=100 * GB, free_bytes=60 * GB, used_percent=40.0, inodes_percent=3.0
)
QUIET = Machine(
    host="h",
    cores=4,
    load=(0.1, 0.2, 0.3),
    uptime_s=7200.0,
    memory_bytes=8 * GB,
    memory_percent=30.0,
    limit_bytes=None,
    swap_bytes=0,
    swap_percent=0.0,
    disks=(DISK,),
    ports=(),
    ports_complete=True,
    failed_units=(),
    systemd=True,
    reboot_packages=None,
)


def findings(machine: Machine) -> list[tuple[str, str]]:
    return [(finding.kind, str(finding.severity)) for finding in judge(machine, [], NOW).findings]


def test_a_quiet_machine_is_ok() -> None:
    result = judge(QUIET, [], NOW)
    assert (result.verdict, result.findings) == ("ok", [])
    assert "disk / 40 % full" in result.summary


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"disks": (replace(DISK, used_percent=84.9),)}, []),
        ({"disks": (replace(DISK, used_percent=85.0),)}, [("disk", "warn")]),
        ({"disks": (replace(DISK, used_percent=97.0),)}, [("disk", "fail")]),
        ({"disks": (replace(DISK, inodes_percent=90.0),)}, [("inodes", "warn")]),
        ({"disks": (replace(DISK, inodes_percent=None),)}, []),
        ({"disks": ()}, []),
        ({"memory_percent": 80.0}, [("memory", "warn")]),
        ({"memory_percent": 96.0}, [("memory", "fail")]),
        ({"swap_bytes": GB, "swap_percent": 85.0}, [("swap", "warn")]),
        ({"load": (0.0, 0.0, 8.1)}, [("load", "warn")]),
        ({"load": (20.0, 9.0, 7.9)}, []),
        ({"failed_units": ("a.service", "b.timer")}, [("failed-unit", "warn")] * 2),
        ({"reboot_packages": ()}, [("reboot", "warn")]),
        ({"reboot_packages": ("linux-image",)}, [("reboot", "warn")]),
    ],
)
def test_what_is_wrong_with_a_machine(change: dict[str, object], expected: list[tuple[str, str]]) -> None:
    assert findings(replace(QUIET, **change)) == expected  # type: ignore[arg-type]


def port(number: int, address: str = "0.0.0.0", protocol: str = "tcp") -> Port:
    return Port(protocol=protocol, address=address, port=number, process="x")


def test_a_service_that_trusts_everybody_is_a_warning_on_every_interface_only() -> None:
    assert findings(replace(QUIET, ports=(port(6379, "127.0.0.1"),))) == []
    assert findings(replace(QUIET, ports=(port(6379, "::"),))) == [("open-port", "warn"), ("ports", "info")]
    assert findings(replace(QUIET, ports=(port(443),))) == [("ports", "info")]


def test_many_ports_are_one_bounded_remark() -> None:
    (finding,) = judge(replace(QUIET, ports=tuple(port(n) for n in range(1000, 1040))), [], NOW).findings
    assert "and 28 more" in finding.message


def test_the_facts_are_in_the_data() -> None:
    data = judge(replace(QUIET, ports=(port(22),)), [], NOW).data
    assert data["ports"][0] == {
        "protocol": "tcp", "address": "0.0.0.0", "port": 22, "process": "x", "everywhere": True,
    }  # fmt: skip
    assert data["disks"][0]["mount"] == "/"


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1500, "2 kB"),
        (1_500_000, "1.5 MB"),
        (250 * GB, "250 GB"),
        (5000 * GB, "5.0 TB"),
    ],
)
def test_bytes_for_people(count: int, words: str) -> None:
    assert size(count) == words


def certificate(days: float, *, in_repo: bool = False) -> Certificate:
    return Certificate(file="/etc/x.pem", name="acme.io", ends_at=NOW + timedelta(days=days), in_repo=in_repo)


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (certificate(-1), [("certificate-expired", "fail")]),
        (certificate(29.9), [("certificate-expires", "warn")]),
        (certificate(30.1), []),
        (certificate(-1, in_repo=True), [("certificate-expired", "warn")]),
        (certificate(5, in_repo=True), [("certificate-expires", "info")]),
    ],
)
def test_certificates_that_end(item: Certificate, expected: list[tuple[str, str]]) -> None:
    assert [(f.kind, str(f.severity)) for f in judge_certificates([item], NOW)] == expected


def der(tag: int, *parts: bytes) -> bytes:
    """One DER element."""
    content = b"".join(parts)
    if len(content) < 128:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes(2, "big")
    return bytes([tag, 0x82]) + length + content


def name(text: str) -> bytes:
    organisation = der(0x31, der(0x30, der(0x06, b"\x55\x04\x0a"), der(0x0C, b"Acme")))
    return der(0x30, organisation, der(0x31, der(0x30, der(0x06, b"\x55\x04\x03"), der(0x0C, text.encode()))))


def make(ends: bytes, tag: int = 0x17, *, version: bool = True, subject: str = "acme.io") -> bytes:
    """A certificate as far as anybody here reads it."""
    first = der(0xA0, der(0x02, b"\x02")) if version else b""
    validity = der(0x30, der(0x17, b"200101000000Z"), der(tag, ends))
    body = der(
        0x30,
        first,
        der(0x02, b"\x01"),
        der(0x30),
        name("issuer"),
        validity,
        name(subject),
        der(0x30, bytes(200)),
    )
    return der(0x30, body, der(0x30), der(0x03, bytes(64)))


def pem(block: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(block) + b"-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("block", "ends_at"),
    [
        (make(b"300102030405Z"), datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)),
        (make(b"500101000000Z"), datetime(1950, 1, 1, tzinfo=UTC)),
        (make(b"491231235959Z"), datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (make(b"20510101000000Z", 0x18), datetime(2051, 1, 1, tzinfo=UTC)),
        (make(b"300102030405Z", version=False), datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)),
    ],
)
def test_the_end_of_a_certificate_is_read_from_its_structure(block: bytes, ends_at: datetime) -> None:
    assert read_der(block) == ("acme.io", ends_at)


@pytest.mark.parametrize(
    "block", [b"", b"\x30", b"\x30\x80", b"\x30\x03abc", make(b"no time at all"), b"\x30\x84\xff\xff\xff\xff"]
)
def test_anything_else_is_no_certificate(block: bytes) -> None:
    assert parse_certificates("x.der", block) == []
    assert parse_certificates("x.pem", pem(block)) == []


def test_a_chain_is_read_and_a_bundle_is_not() -> None:
    chain = pem(make(b"300102030405Z")) + b"junk\n" + pem(make(b"310102030405Z", subject="root"))
    assert [c.name for c in parse_certificates("x.pem", chain)] == ["acme.io", "root"]
    assert parse_certificates("x.pem", pem(make(b"300102030405Z")) * 11) == []


def test_certificates_are_found_in_usual_places_and_where_servers_say(tmp_path: Path) -> None:
    block = pem(make(b"300102030405Z"))
    for place in (
        "letsencrypt/live/a/fullchain.pem",
        "ssl/own.crt",
        "ssl/certs/placed.pem",
        "nginx/keys/site.crt",
        "apache2/a.pem",
    ):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(block)
    (tmp_path / "letsencrypt/live/a/cert.pem").symlink_to("fullchain.pem")
    (tmp_path / "ssl/certs/root.pem").symlink_to("/usr/share/ca/root.crt")
    (tmp_path / "nginx/sites").mkdir()
    (tmp_path / "nginx/sites/a.conf").write_text(
        "server {\n  ssl_certificate keys/site.crt;\n  ssl_certificate $x;\n}\n"
    )
    (tmp_path / "apache2/a.conf").write_text(f"SSLCertificateFile {tmp_path}/apache2/a.pem\n")
    found = {str(path.relative_to(tmp_path)) for path in machine_files(tmp_path)}
    assert found == {
        "letsencrypt/live/a/fullchain.pem",
        "ssl/own.crt",
        "ssl/certs/placed.pem",
        "nginx/keys/site.crt",
        "apache2/a.pem",
    }
    assert read_certificates(tmp_path / "ssl/own.crt")[0].name == "acme.io"
    assert read_certificates(tmp_path / "gone.crt") == []
