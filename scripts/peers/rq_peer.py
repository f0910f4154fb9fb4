"""rq: SimpleWorker, which does not fork for each job; graphs by depends_on, submitted in one pipeline."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import stamp
from redis import Redis
from rq import Queue

QUEUE = "bench"


def noop() -> None:
    stamp.mark()


def answer() -> int:
    stamp.mark()
    return 42


def hold() -> None:
    stamp.hold()


class Peer:
    """See serve.py."""

    def open(self) -> None:
        self.queue = Queue(QUEUE, connection=Redis(unix_socket_path=stamp.SOCKET))

    def submit(self, count: int) -> None:
        self.queue.enqueue_many([Queue.prepare_data(noop, result_ttl=0) for _ in range(count)])

    def one(self) -> None:
        self.queue.enqueue(noop, result_ttl=0)

    def answer(self) -> None:
        result = self.queue.enqueue(answer).latest_result(timeout=10)
        assert result is not None
        assert result.return_value == 42

    def hold(self) -> None:
        self.queue.enqueue(hold)

    def graph(self, needs: Sequence[Sequence[int]]) -> None:
        ids = [uuid.uuid4().hex for _ in needs]
        for one, row in zip(ids, needs, strict=True):
            self.queue.enqueue(noop, job_id=one, depends_on=[ids[i] for i in row] or None)
