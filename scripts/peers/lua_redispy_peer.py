"""The floor over redis-py."""

from __future__ import annotations

import itertools

import lualoop
import redis
import stamp

_numbers = itertools.count()


def _open() -> redis.Redis:
    client = redis.Redis(unix_socket_path=stamp.SOCKET, decode_responses=True)
    client.execute_command("FUNCTION LOAD", "REPLACE", lualoop.CODE)
    return client


class Peer:
    """See serve.py."""

    def open(self) -> None:
        self.client = _open()

    def submit(self, count: int) -> None:
        self.client.rpush("ready", *(f"noop:{next(_numbers)}" for _ in range(count)))

    def one(self) -> None:
        self.submit(1)

    def answer(self) -> None:
        token = next(_numbers)
        self.client.rpush("ready", f"answer:{token}")
        self.client.blpop([f"answer:{token}"], 10)


def work() -> None:
    """A worker until it is ended."""
    client = _open()
    done, reply_to = "", ""
    while True:
        task = client.execute_command(*lualoop.NEXT, done, reply_to)
        if task is None:
            task = client.execute_command(*lualoop.SLEEP)
        done, reply_to = lualoop.run(task)


if __name__ == "__main__":
    work()
