"""celery: results only of the tasks somebody waits for; solo pool, its fastest with one worker."""

from __future__ import annotations

import stamp
from celery import Celery

app = Celery("bench", broker=f"redis+socket://{stamp.SOCKET}", backend=f"redis+socket://{stamp.SOCKET}")
app.conf.update(broker_connection_retry_on_startup=True, worker_hijack_root_logger=False)


@app.task(ignore_result=True)
def noop() -> None:
    stamp.mark()


@app.task
def answer() -> int:
    stamp.mark()
    return 42


@app.task(ignore_result=True)
def hold() -> None:
    stamp.hold()


class Peer:
    """See serve.py."""

    def submit(self, count: int) -> None:
        for _ in range(count):
            noop.delay()

    def one(self) -> None:
        noop.delay()

    def answer(self) -> None:
        assert answer.delay().get(timeout=10) == 42

    def hold(self) -> None:
        hold.delay()
