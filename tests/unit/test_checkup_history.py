"""History, churn and patches: what is read from git's output."""

from __future__ import annotations

import pytest

from ai_infra.checkup.churn import parse_churn
from ai_infra.checkup.history import DAY_S, Commit, bus_factor, parse_commit, summarize
from ai_infra.checkup.patches import parse_patches

NOW_S = 1_800_000_000


def commits(**counts: int) -> list[Commit]:
    return [Commit(author=name, at_s=NOW_S - DAY_S) for name, count in counts.items() for _ in range(count)]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([], 0), ([5], 1), ([5, 5], 2), ([10, 3, 3], 1), ([4, 3, 3], 2), ([1, 1, 1, 1], 3)],
)
def test_the_bus_factor_is_the_fewest_who_made_more_than_half(counts: list[int], expected: int) -> None:
    assert bus_factor(counts) == expected


def test_a_commit_is_read_and_anything_else_left_out() -> None:
    assert parse_commit(b"Ann\x1fa@x\x1f17") == Commit(author="Ann", at_s=17)
    assert parse_commit(b"\x1fa@x\x1f17") == Commit(author="a@x", at_s=17)
    assert parse_commit(b"") is None
    assert parse_commit("Bj\xf6rn\x1fb@x\x1f5".encode("latin-1")) is not None


def test_bots_are_nobody_and_one_name_is_one_person() -> None:
    past = summarize([*commits(Ann=3, ann=2, Ben=1), *commits(**{"dependabot[bot]": 20})], NOW_S)
    assert (past.authors, past.bots, past.bus_factor) == (2, 1, 1)
    assert past.top[0] == ("dependabot[bot]", 20)
    assert past.top[1][1] == 5


def test_activity_and_idleness_are_measured_from_now() -> None:
    old = Commit(author="Ann", at_s=NOW_S - 400 * DAY_S)
    new = Commit(author="Ben", at_s=NOW_S - 10 * DAY_S)
    past = summarize([new, old], NOW_S)
    assert (past.active_commits, past.active_authors, past.idle_days) == (1, 1, 10)
    assert past.first_at is not None
    assert past.first_at < (past.last_at or "")


def test_no_commits_and_impossible_dates() -> None:
    assert summarize([], NOW_S).last_at is None
    assert summarize([Commit(author="Ann", at_s=10**18)], NOW_S).last_at == "unknown"


def churn_words(*commits_: tuple[int, str, list[bytes]]) -> list[bytes]:
    words: list[bytes] = []
    for at_s, author, changes in commits_:
        words.append(b"\x01" + str(at_s).encode() + b"\x1f" + author.encode())
        words += [b"\n" + changes[0], *changes[1:]] if changes else []
    return words


def test_churn_counts_commits_authors_and_the_last_change() -> None:
    churn = parse_churn(
        churn_words(
            (30, "Ann", [b"M", b"a", b"A", b"b"]), (20, "Ben", [b"M", b"a"]), (10, "ann", [b"A", b"a"])
        ),
        3,
    )
    assert (churn.changes["a"].commits, len(churn.changes["a"].authors), churn.changes["a"].last_s) == (
        3,
        2,
        30,
    )
    assert churn.changes["b"].commits == 1
    assert (churn.commits, churn.cut, churn.oldest_s) == (3, False, 10)


def test_a_renamed_file_keeps_its_history_over_several_renamings() -> None:
    churn = parse_churn(
        churn_words(
            (40, "Ann", [b"M", b"new"]),
            (30, "Ann", [b"R100", b"mid", b"new"]),
            (20, "Ben", [b"R100", b"old", b"mid"]),
            (10, "Cid", [b"A", b"old"]),
        ),
        4,
    )
    assert set(churn.changes) == {"new"}
    assert churn.changes["new"].commits == 4


def test_a_path_may_look_like_a_header_and_a_commit_may_be_empty() -> None:
    churn = parse_churn(churn_words((20, "Ann", [b"M", b"\x01evil"]), (10, "Ben", [])), 5)
    assert churn.changes["\x01evil"].commits == 1
    assert (churn.commits, churn.cut) == (2, True)


def test_a_cut_record_at_the_end_is_left_out() -> None:
    assert parse_churn([b"\x0110\x1fAnn", b"\nM"], 1).changes == {}


PATCH = b"""\x01c1

diff --git a/a.txt b/a.txt
index 1..2 100644
--- a/a.txt
+++ b/a.txt
@@ -3,0 +4,2 @@ context
+++ looks like a header
+second
@@ -9 +11 @@
-gone
+last
diff --git a/b.txt b/b.txt
--- a/b.txt
+++ b/b.txt
@@ -1,0 +2 @@
+other file
\x01c2

diff --git a/gone b/gone
--- a/gone
+++ /dev/null
@@ -1 +0,0 @@
-x
diff --git "a/t\\303\\244b\\n.txt" "b/t\\303\\244b\\n.txt"
--- /dev/null
+++ "b/t\\303\\244b\\n.txt"
@@ -0,0 +1 @@
+one
\\ No newline at end of file
""".split(b"\n")


def test_added_lines_by_commit_and_file_with_their_numbers() -> None:
    first, other, second = list(parse_patches(PATCH))
    assert (other.commit, other.path, other.text, other.line_of(0)) == ("c1", "b.txt", b"other file", 2)
    assert (first.commit, first.path) == ("c1", "a.txt")
    assert first.text == b"++ looks like a header\nsecond\nlast"
    assert [first.line_of(first.text.index(word)) for word in (b"header", b"second", b"last")] == [4, 5, 11]
    assert (second.commit, second.path, second.text) == ("c2", "täb\n.txt", b"one")
