"""The whole check-up: every part in order, one report, on any terminal; certificates as openssl sees them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ai_infra.checkup import PARTS, run_all, run_part
from ai_infra.checkup.certificates import parse_certificates
from ai_infra.checkup.git import NotARepository
from ai_infra.checkup.sample import Builder, make_sample

RUN = (
    "import sys; from pathlib import Path; from ai_infra.checkup import run_part;"
    "run_part(sys.argv[1], *map(Path, sys.argv[2:]))"
)


@pytest.fixture(autouse=True)
def not_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AI_INFRA_CHECKUP", raising=False)


def test_all_parts_and_the_report(tmp_path: Path) -> None:
    folder, out, lines = make_sample(tmp_path / "sample"), tmp_path / "out", list[str]()
    verdict = run_all(folder, out, lines.append)
    assert verdict == "fail"
    names = {f"{part}.json" for part in PARTS} | {"measures.sqlite", "report.md"}
    assert {path.name for path in out.iterdir()} == names
    said = "\n".join(lines)
    for part in PARTS:
        if part != "report":
            assert f"\n{part}: " in "\n" + said
    document = (out / "report.md").read_text("utf-8")
    assert document.rstrip("\n") in said
    first = document.split("## What to do first")[1].split("##")[0]
    assert first.index("Failing tests") < first.index("Python files that") < first.index("Unparsable YAML")
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert report["verdict"] == "fail"
    assert report["data"]["missing"] == []
    assert report["data"]["first"][0]["part"] == "tests"


def test_the_report_of_nothing_is_unknown_and_says_what_is_missing(tmp_path: Path) -> None:
    builder = Builder(tmp_path / "acme")
    builder.commit({"a.txt": "x"})
    out = tmp_path / "out"
    run_part("inventory", builder.folder, out, lambda line: None)
    (out / "lint.json").write_text("{damaged")
    (out / "host.json").write_text(
        '{"part": "lint", "verdict": "ok", "summary": "", "findings": [], "data": {}}'
    )
    assert (
        run_part("report", builder.folder, out, lambda line: None) == "warn"
    )  # no licence, from the inventory
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert report["data"]["missing"] == ["measures", "lint", "tests", "secrets", "host"]


def test_a_part_that_cannot_work_does_not_stop_the_others(tmp_path: Path) -> None:
    builder = Builder(tmp_path / "acme")
    builder.commit({"a.txt": "x"})
    out, lines = tmp_path / "out", list[str]()
    (out / "measures.sqlite").mkdir(parents=True)  # where the table should be
    verdict = run_all(builder.folder, out, lines.append)
    assert verdict in ("unknown", "warn", "fail")
    assert any(line.startswith("measures: unknown: ") and "measures.sqlite" in line for line in lines)
    assert "| measures | data | unknown | no result" in (out / "report.md").read_text("utf-8")


def test_a_wrong_folder_is_one_error_not_seven(tmp_path: Path) -> None:
    lines: list[str] = []
    with pytest.raises(NotARepository):
        run_all(tmp_path, tmp_path / "out", lines.append)
    assert lines == []


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1"])
def test_any_terminal_can_show_it(tmp_path: Path, encoding: str) -> None:
    builder = Builder(tmp_path / "bücher")
    builder.commit({"ümlaut\n.py": "def f(:\n", "\N{SNOWMAN}.json": "{"})
    environment = dict(os.environ) | {"PYTHONIOENCODING": encoding}
    for part in ("lint", "report"):
        command = [sys.executable, "-c", RUN, part, str(builder.folder), str(tmp_path / "out")]
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout.decode(encoding)


def test_a_language_of_the_old_kind_changes_nothing(tmp_path: Path) -> None:
    """With LC_ALL=C git and Python could both fall back to ASCII names."""
    builder = Builder(tmp_path / "acme")
    builder.commit({"ümlaut.py": "def f(:\n"})
    environment = dict(os.environ) | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", RUN, "lint", str(builder.folder), str(tmp_path / "out")]
    subprocess.run(command, env=environment, capture_output=True, check=True)
    (finding,) = json.loads((tmp_path / "out" / "lint.json").read_text("utf-8"))["findings"][:1]
    assert finding["file"] == "ümlaut.py"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed here")
@pytest.mark.parametrize("algorithm", [["rsa:2048"], ["ed25519"]])
def test_certificates_end_when_openssl_says(tmp_path: Path, algorithm: list[str]) -> None:
    for days in ("20", "20000"):  # the second ends after 2050, where the format of the date is another
        about = ["-days", days, "-subj", "/O=Acme/CN=acme.io"]
        files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
        command = ["openssl", "req", "-x509", "-newkey", *algorithm, "-nodes", *about, *files]
        subprocess.run(command, check=True, capture_output=True)
        for form in ("PEM", "DER"):
            path = tmp_path / f"cert.{form.lower()}"
            convert = [
                "openssl",
                "x509",
                "-in",
                str(tmp_path / "cert.pem"),
                "-outform",
                form,
                "-out",
                str(path),
            ]
            subprocess.run(convert, check=True, capture_output=True)
            (certificate,) = parse_certificates("x", path.read_bytes())
            ask = [
                "openssl",
                "x509",
                "-in",
                str(path),
                "-inform",
                form,
                "-noout",
                "-enddate",
                "-dateopt",
                "iso_8601",
            ]
            said = subprocess.run(ask, check=False, capture_output=True, text=True).stdout.strip()
            if not said:  # an openssl before 3 has no -dateopt
                pytest.skip("this openssl cannot print ISO dates")
            assert said == f"notAfter={certificate.ends_at:%Y-%m-%d %H:%M:%SZ}"
            assert certificate.name == "acme.io"
