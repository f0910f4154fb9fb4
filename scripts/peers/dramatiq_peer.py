"""dramatiq: the Redis broker, one process with one thread."""

from __future__ import annotations

import dramatiq
import stamp
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

broker = RedisBroker(url=f"unix://{stamp.SOCKET}")
broker.add_middleware(Results(backend=RedisBackend(url=f"unix://{stamp.SOCKET}")))
dramatiq.set_broker(broker)


@dramatiq.actor
def noop() -> None:
    stamp.mark()


@dramatiq.actor(store_results=True)
def answer() -> int:
    stamp.mark()
    return 42


@dramatiq.actor
def hold() -> None:
    stamp.hold()


class Peer:
    """See serve.py."""

    def submit(self, count: int) -> None:
        for _ in range(count):
            noop.send()

    def one(self) -> None:
        noop.send()

    def answer(self) -> None:
        assert answer.send().get_result(block=True, timeout=10_000) == 42

    def hold(self) -> None:
        hold.send()
