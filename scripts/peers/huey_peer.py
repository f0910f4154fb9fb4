"""huey: a list that blocks, results that are notified; one worker process."""

from __future__ import annotations

import stamp
from huey import RedisHuey

huey = RedisHuey("bench", url=f"unix://{stamp.SOCKET}", notify_result=True)


@huey.task()
def noop() -> None:
    stamp.mark()


@huey.task()
def answer() -> int:
    stamp.mark()
    return 42


@huey.task()
def hold() -> None:
    stamp.hold()


class Peer:
    """See serve.py."""

    def submit(self, count: int) -> None:
        for _ in range(count):
            noop()

    def one(self) -> None:
        noop()

    def answer(self) -> None:
        assert answer().get(blocking=True, timeout=10) == 42

    def hold(self) -> None:
        hold()
