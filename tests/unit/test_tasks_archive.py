"""The archive's files without Redis: members, records, what is found where."""

from __future__ import annotations

import gzip
import json
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_infra.core.errors import SystemProblem
from ai_infra.core.ids import TaskId, WorkflowId
from ai_infra.tasks.archive import Archive
from ai_infra.tasks.members import Member, append, members, pack
from ai_infra.tasks.record import Record, TaskRecord, WorkflowRecord, read_line

DAY_MS = 86_400_000
parts = st.lists(st.binary(max_size=300), min_size=1, max_size=6)


def record(name: str, *, ended_ms: int = DAY_MS, flow: str = "", seq: int = 1, error: str = "") -> TaskRecord:
    spec = {"agent": "code", "id": name, "name": name, "run": [["true"]]} | (
        {"workflow": flow} if flow else {}
    )
    fields = {
        "s": "FAILED",
        "a": "code",
        "nm": name,
        "at": "1",
        "ts": "1",
        "fi": str(ended_ms),
        "q": str(seq),
    }
    fields |= {"wf": flow} if flow else {}
    fields |= {"er": error} if error else {}
    return TaskRecord(id=TaskId(name), fields=fields, spec_text=json.dumps(spec), result_text='{"x":"ü"}')


def flow_record(name: str) -> WorkflowRecord:
    return WorkflowRecord(
        id=WorkflowId(name), header_text=json.dumps({"id": name, "name": "f"}), created_ms="1"
    )


@settings(deadline=None)
@given(texts=parts, cut=st.integers(1, 40))
def test_a_write_that_broke_off_anywhere_takes_nothing_else_with_it(texts: list[bytes], cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.gz"
        for number, text in enumerate(texts):
            append(path, text, {"n": number})
        whole = path.read_bytes()
        path.write_bytes(whole + pack(b"lost" * 50, {"n": 99})[:cut])
        assert [(m.note["n"], m.read()) for m in members(path)] == list(enumerate(texts))
        append(path, b"more", {"n": len(texts)})
        assert gzip.decompress(path.read_bytes()) == b"".join(texts) + b"more"


@pytest.mark.parametrize("at", [0, 10, 12, 16, 20])
def test_a_damaged_part_is_never_cut_away_with_what_stands_behind_it(tmp_path: Path, at: int) -> None:
    path = tmp_path / "x.gz"
    for number in range(3):
        append(path, b"text", {"n": number})
    second = list(members(path))[1].start
    damaged = bytearray(path.read_bytes())
    damaged[second + at] ^= 0x41
    path.write_bytes(damaged)
    with pytest.raises(SystemProblem, match="move it away"):
        append(path, b"more", {"n": 3})
    assert path.read_bytes() == damaged


def test_a_file_that_a_person_has_packed_anew_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"edited"))
    with pytest.raises(SystemProblem, match="changed by hand"):
        append(path, b"more", {"n": 1})
    assert gzip.decompress(path.read_bytes()) == b"edited"


def test_what_was_made_longer_and_never_written_is_cut_away(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    append(path, b"one", {"n": 1})
    path.write_bytes(path.read_bytes() + bytes(5000))
    append(path, b"two", {"n": 2})
    assert gzip.decompress(path.read_bytes()) == b"onetwo"


def test_who_reads_is_told_of_a_damaged_part_and_not_that_there_is_no_such_task(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    for name in "abc":
        archive.append([record(name)])
    (path,) = archive.files()
    damaged = bytearray(path.read_bytes())
    damaged[list(members(path))[1].start + 13] ^= 1
    path.write_bytes(damaged)
    for look in (lambda: archive.find("b"), lambda: list(archive.ended()), lambda: list(archive.in_order())):
        with pytest.raises(SystemProblem, match="is damaged at byte"):
            look()


def test_any_gunzip_reads_it(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.append([flow_record("w"), record("a", flow="w")])
    archive.append([record("b")])
    (path,) = archive.files()
    assert path.name == "tasks-1970-01-02.jsonl.gz"
    text = subprocess.run(["gunzip", "-c", path], capture_output=True, text=True, check=True).stdout
    assert [next(iter(json.loads(line))) for line in text.splitlines()] == ["workflow", "task", "task"]


def test_something_else_in_its_place_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "tasks-2026-01-01.jsonl.gz").write_bytes(gzip.compress(b'{"task":1}'))
    (tmp_path / "notes.txt").write_text("a person's")
    assert list(Archive(tmp_path).ended()) == []
    assert Archive(tmp_path / "none").files() == []


def test_what_was_written_last_holds(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.append([record("a", error="old"), record("b")])
    archive.append([record("a", error="new", ended_ms=3 * DAY_MS)])
    archive.append([record("c", error="twice"), record("c", error="at once")])
    assert [(r.id, r.fields.get("er")) for r in archive.in_order() if isinstance(r, TaskRecord)] == [
        ("b", None), ("c", "at once"), ("a", "new")
    ]  # fmt: skip
    assert {r.id: r.fields.get("er") for r in archive.ended()} == {
        "a": "new", "b": None, "c": "at once"
    }  # fmt: skip
    assert archive.find("a")[0].error == "new"
    assert [r.id for r in archive.ended(2 * DAY_MS)] == ["a"]


def test_an_id_is_found_by_its_beginning_without_unpacking_the_rest(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    for n in range(20):
        archive.append([record(f"t{n:02}{i}", ended_ms=DAY_MS * (1 + n % 3)) for i in range(5)])
    unpacked: list[int] = []

    class Counting(Archive):
        def read(self, member: Member) -> list[Record]:
            unpacked.append(member.start)
            return super().read(member)

    assert [v.id for v in Counting(tmp_path).find("t073")] == ["t073"]
    assert len(unpacked) == 1
    assert sorted(v.id for v in archive.find("t07")) == [f"t07{i}" for i in range(5)]
    assert archive.find("u") == []
    assert len(archive.find("t", limit=7)) == 7


def test_a_workflow_over_several_parts_and_days(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    for n in (2, 1, 3):
        archive.append([flow_record("w-1"), record(f"t{n}", flow="w-1", seq=n, ended_ms=n * DAY_MS)])
    archive.append([flow_record("w-12"), record("u", flow="w-12")])
    found = archive.find_workflows("w-1")
    assert [v.id for v in found[WorkflowId("w-1")].tasks] == ["t1", "t2", "t3"]
    assert list(found) == ["w-1"]
    assert sorted(archive.find_workflows("w-")) == ["w-1", "w-12"]


def test_a_record_survives_its_line() -> None:
    for one in (record("a", flow="w", error='"\n\x1f ü'), flow_record("w")):
        again = read_line(one.line())
        assert again.line() == read_line(again.line()).line()
        assert one.line().count("\n") == 1
    assert isinstance(again := read_line(record("a", error="ü").line()), TaskRecord)
    assert (again.fields["er"], again.view().result) == ("ü", {"x": "ü"})


LINES = [
    "[]",
    "1",
    '"x"',
    '{"task":{}}',
    '{"task":{"id":1},"spec":{}}',
    '{"task":{"id":"a"},"spec":{},"more":1}',
    '{"workflow":{"id":"w"}}',
    '{"workflow":{"id":"w","ts":1,"header":{}}}',
    '{"spec":{}}',
]


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_another_form_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"is no|does not hold|is neither|holds something"):
        read_line(line)
