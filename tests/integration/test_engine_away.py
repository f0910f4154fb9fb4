"""Redis away for a while, or hung, or shared: no task is lost for it, and everybody hears of it in time."""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from engine_kit import CODE, OK, W1, W2, claimed, engine_on, handed, run, task

from ai_infra.connectors.inbox import Inbox
from ai_infra.connectors.redis import Connection
from ai_infra.connectors.wire import parse_address
from ai_infra.core.errors import Conflict, ConnectorError, ConnectorRefused, ConnectorUnavailable
from ai_infra.core.ids import TaskId
from ai_infra.tasks.engine import Engine
from ai_infra.tasks.task import State
from ai_infra.testing import wait_until, wait_until_async
from tests.conftest import RedisServer, new_redis, remove_redis

LEASE_S = 0.4
FIRST: dict[str, Callable[[Engine], Awaitable[Any]]] = {
    "the ticker": lambda e: e.tick(),
    "another process": lambda e: e.beat("monitor", lease_s=LEASE_S),
    "an idle worker": lambda e: e.claim(CODE, W2, 30),
}


async def away(redis: RedisServer, how: str, for_s: float) -> None:
    until = time.monotonic() + for_s
    assert redis.process is not None
    if how == "killed":
        redis.kill()
    else:
        redis.process.send_signal(signal.SIGSTOP)
    await asyncio.to_thread(wait_until, lambda: time.monotonic() > until, 5)
    if how == "killed":
        await asyncio.to_thread(redis.start)
    else:
        redis.process.send_signal(signal.SIGCONT)


class TestLeases:
    @pytest.mark.parametrize("how", ["killed", "stopped"])
    @pytest.mark.parametrize("first", FIRST)
    def test_outlive_a_redis_that_was_away(self, own_redis: RedisServer, how: str, first: str) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a", max_attempts=1)])
            claim = await e.claim(CODE, W1, LEASE_S)
            assert claim is not None
            await e.beat("code", W1, lease_s=LEASE_S)
            await e.beat("monitor")
            await away(own_redis, how, LEASE_S * 1.5)
            await FIRST[first](e)
            await e.tick()
            assert (await e.beat("code", W1, lease_s=LEASE_S)).lost == ()
            assert await e.finish(claim, OK) == (State.COMPLETED, None)

        run(own_redis.address, body)

    def test_end_a_term_later_when_the_holder_is_gone_for_good(self, redis_server: RedisServer) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a")])
            await e.claim(CODE, W1, LEASE_S)
            await e.beat("code", W1, lease_s=LEASE_S)
            await wait_until_async(lambda: _silent_for(e, LEASE_S * 1.2), 5, "the silence")
            assert 0 < (await e.tick() or 0) <= LEASE_S
            ticking = asyncio.create_task(e.run_timers())  # nobody beats any more
            given = await _ready(e)
            ticking.cancel()
            assert given

        run(redis_server.address, body)

    def test_end_in_time_while_others_beat(self, redis_server: RedisServer) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a")])
            await e.claim(CODE, W1, LEASE_S)
            began = time.monotonic()

            async def ready() -> bool:
                await e.beat("monitor")
                await e.tick()
                return (await e.get(TaskId("a"))).state is State.READY

            await wait_until_async(ready, 5, "the lease ends")
            assert time.monotonic() - began < 1.5 * LEASE_S

        run(redis_server.address, body)


async def _silent_for(e: Engine, seconds: float) -> bool:
    return min(beat.age_s for beat in (await e.beats()).values()) > seconds


async def _ready(e: Engine) -> bool:
    async def is_ready() -> bool:
        return (await e.get(TaskId("a"))).state is State.READY

    return await wait_until_async(is_ready, 5, "the task is ready")


class TestWaiting:
    def test_a_wait_that_the_server_ends_goes_on(self, redis_server: RedisServer) -> None:
        async def body(e: Engine) -> None:
            assert await e.claim(CODE, W1, 30) is None
            waiting = asyncio.create_task(handed(e))
            blocked = await wait_until_async(lambda: _blocked(e), 5, "it waits")
            await e.connection.command("CLIENT", "UNBLOCK", blocked, "ERROR")
            await e.submit([task("a")])
            assert (await waiting).spec.id == "a"

        run(redis_server.address, body)

    def test_a_timeout_is_kept_to_and_the_pop_goes_on(self, redis_server: RedisServer) -> None:
        async def body(e: Engine) -> None:
            inbox = Inbox(e.connection, "box")
            late = []
            for _ in range(15):
                began = time.monotonic()
                assert await inbox.pop(0.02) is None
                late.append(time.monotonic() - began - 0.02)
            assert sorted(late)[7] < 0.02
            await e.connection.command("RPUSH", "ai:box", "x", "y")
            assert await inbox.pop(0) in (None, "x")
            seen = [await inbox.pop(1), await inbox.pop(0.01)]
            assert "y" in seen
            inbox.close()

        run(redis_server.address, body)

    def test_timers_go_on_when_redis_refuses_for_a_while(self, own_redis: RedisServer) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a", max_attempts=1)])
            await e.claim(CODE, W1, 0.3)
            own_redis.ask("CONFIG", "SET", "min-replicas-to-write", "1")
            with pytest.raises(ConnectorRefused, match="replicas"):
                await e.submit([task("b")])
            ticking = asyncio.create_task(e.run_timers())
            await _refused(e)
            assert not ticking.done()
            own_redis.ask("CONFIG", "SET", "min-replicas-to-write", "0")
            assert await _ready(e)
            ticking.cancel()

        run(own_redis.address, body)


async def _refused(e: Engine) -> None:
    """Until the ticker must have been refused, too."""
    for _ in range(20):
        with pytest.raises(ConnectorError):
            await e.tick()


async def _blocked(e: Engine) -> str:
    for line in (await e.connection.command("CLIENT", "LIST")).splitlines():
        if "cmd=blpop" in line:
            return str(line.split("id=")[1].split()[0])
    return ""


class TestHung:
    @pytest.fixture
    def hung(self, own_redis: RedisServer) -> Any:
        assert own_redis.process is not None
        own_redis.process.send_signal(signal.SIGSTOP)
        yield own_redis
        own_redis.process.send_signal(signal.SIGCONT)

    def test_opening_ends_in_time(self, hung: RedisServer) -> None:
        began = time.monotonic()
        with pytest.raises(ConnectorUnavailable, match=rf"{hung.address} gave no answer in 0\.3 s"):
            asyncio.run(Connection.open(hung.address, wait_s=0.3))
        assert time.monotonic() - began < 1

    def test_a_call_ends_in_time(self, own_redis: RedisServer) -> None:
        async def main() -> None:
            async with engine_on(own_redis.address, wait_s=0.5) as e:
                assert own_redis.process is not None
                own_redis.process.send_signal(signal.SIGSTOP)
                try:
                    for call in (e.counts, e.last_event_id):
                        began = time.monotonic()
                        with pytest.raises(ConnectorUnavailable, match=r"no answer in 0\.5 s"):
                            await call()
                        assert time.monotonic() - began < 1
                finally:
                    own_redis.process.send_signal(signal.SIGCONT)

        asyncio.run(main())

    def test_opening_names_what_it_met(self, tmp_path: Path) -> None:
        with pytest.raises(ConnectorUnavailable, match=r"none\.sock cannot be reached: No such file"):
            asyncio.run(Connection.open(str(tmp_path / "none.sock"), wait_s=0.1))


class TestOwner:
    def test_another_installation_is_kept_out(self, redis_server: RedisServer) -> None:
        async def main() -> None:
            async with engine_on(redis_server.address, owner="/a@h") as mine:
                await mine.submit([task("a")])
                claim = await claimed(mine)
                with pytest.raises(
                    Conflict, match=r"another installation \(/a@h\) uses this Redis with prefix"
                ):
                    await Connection.open(redis_server.address, owner="/b@h")
                for options in ({"owner": "/a@h"}, {"owner": "/b@h", "prefix": "b:"}, {}):
                    (await Connection.open(redis_server.address, **options)).close()
                assert await mine.finish(claim, OK) == (State.COMPLETED, None)

        asyncio.run(main())

    def test_beats_keep_it_and_silence_loses_it(self, redis_server: RedisServer) -> None:
        async def main() -> None:
            async with engine_on(redis_server.address, owner="/a@h") as mine:
                await mine.connection.command("PEXPIRE", "ai:owner", 5000)
                await mine.beat("code", W1)
                assert await mine.connection.command("PTTL", "ai:owner") > 100_000
                await mine.connection.command("DEL", "ai:owner")  # silent for two minutes
                async with engine_on(redis_server.address, owner="/b@h") as other:
                    await other.beat("code", W2)
                    with pytest.raises(Conflict, match=r"another installation \(/b@h\)"):
                        await mine.beat("code", W1)

        asyncio.run(main())

    def test_one_that_refuses_writes_can_be_read(self, own_redis: RedisServer) -> None:
        async def main() -> None:
            (await Connection.open(own_redis.address)).close()
            own_redis.ask("CONFIG", "SET", "min-replicas-to-write", "1")
            async with engine_on(own_redis.address, owner="/a@h") as e:
                assert await e.list_tasks() == []

        asyncio.run(main())


@pytest.mark.parametrize("name", ["a#b", "a?db=x", "a%41b", "a b", "ü:@", "redis://h", "'\""])
def test_a_path_may_hold_any_character(name: str) -> None:
    server = new_redis()
    folder = server.folder
    server.folder = folder / name
    server.folder.mkdir(parents=True)
    assert parse_address(server.address).path == server.address

    async def main() -> None:
        async with engine_on(server.address) as e:
            await e.submit([task("a")])

    try:
        server.start()
        asyncio.run(main())
    finally:
        remove_redis(server)
        shutil.rmtree(folder)
