"""What goes wrong around the engine.

Redis dies, hangs up, is full, old, newer, evicting, or of somebody else.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_kit import CODE, OK, W1, claimed, engine_on, handed, run, task, work_off

from ai_infra.connectors import redis as connector
from ai_infra.connectors.redis import Connection, library
from ai_infra.connectors.replies import translate
from ai_infra.connectors.wire import parse_address
from ai_infra.core.errors import (
    AiInfraError,
    ConfigError,
    Conflict,
    ConnectorError,
    ConnectorRefused,
    ConnectorUnavailable,
    NotFound,
    SystemProblem,
)
from ai_infra.core.ids import AgentName, TaskId, WorkerId, WorkflowId
from ai_infra.tasks.engine import Engine
from ai_infra.tasks.handoff import hand_over
from ai_infra.tasks.task import Outcome, State, WorkflowHeader
from ai_infra.testing import wait_until_async
from tests.conftest import RedisServer, new_redis, remove_redis


@pytest.fixture
def tuned_redis() -> Iterator[Any]:
    """Start servers with options of one's own."""
    servers: list[RedisServer] = []

    def start(*options: str) -> RedisServer:
        server = new_redis(options)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        remove_redis(server)


class TestCrash:
    def test_nothing_acknowledged_is_lost(self, own_redis: RedisServer) -> None:
        """Redis is killed three times under load; all that was confirmed is there."""
        accepted: list[str] = []
        finished: list[str] = []

        async def submit(e: Engine, stop: asyncio.Event) -> None:
            n = 0
            while not stop.is_set():
                n += 1
                await e.submit([task(f"t{n}")])
                accepted.append(f"t{n}")
                await asyncio.sleep(0.001)

        async def work(e: Engine, stop: asyncio.Event) -> None:
            while not stop.is_set():
                claim = await e.claim(CODE, W1, 30)
                if claim is None:
                    notice = await e.next_notice(W1, 0.1)
                    claim = notice.claim if notice else None
                if claim is not None:
                    state, _ = await e.finish(claim, OK)
                    assert state is State.COMPLETED
                    finished.append(claim.spec.id)

        async def body(e: Engine) -> None:
            stop = asyncio.Event()
            async with engine_on(own_redis.address) as other, asyncio.TaskGroup() as group:
                group.create_task(submit(e, stop))
                group.create_task(work(other, stop))
                for goal in (100, 200, 300):
                    await wait_until_async(
                        lambda goal=goal: _reached(finished, goal), 15, f"{goal} tasks done"
                    )
                    own_redis.kill()
                    await asyncio.to_thread(own_redis.start)
                stop.set()
            await work_off(e)
            views = await e.get_many([TaskId(t) for t in accepted])
            assert {v.state for v in views} == {State.COMPLETED}
            assert len(finished) == len(set(finished)), "a task was completed twice"

        run(own_redis.address, body, timeout_s=60)

    @pytest.mark.parametrize("when", ["before", "after"])
    @pytest.mark.parametrize("call", range(22))
    def test_redis_is_killed_around_each_call(
        self, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, call: int, when: str
    ) -> None:
        """After: it was done, its answer was lost, and it is asked again."""
        monkeypatch.setattr("ai_infra.tasks.submit.BATCH_TASKS", 2)
        calls = itertools.count()

        class Crashing(Connection):
            async def call(self, function: str, *words: Any) -> Any:
                at, given = next(calls) == call, [function, *words]
                if at and when == "after":
                    await super().call(*given)
                if at:
                    own_redis.kill()
                    await asyncio.to_thread(own_redis.start)
                return await super().call(*given)

        async def main() -> None:
            async with await Crashing.open(own_redis.address) as connection, asyncio.timeout(30):
                await scenario(Engine(connection))
            assert next(calls) > call, "no call was disturbed"

        async def scenario(e: Engine) -> None:
            flow, b, qa = WorkflowId("w"), TaskId("b"), AgentName("qa")
            undo = {"workflow": flow, "undo": (("true",),)}
            steps = [task("a", **undo), task("b", locks=("l",), **undo), task("c", locks=("l",), **undo)]
            header = WorkflowHeader(id=flow, name="w", atomic=True)
            await e.submit([*steps, task("d", "c", **undo), task("e", workflow=flow)], workflow=header)
            assert await e.submit([task("k", key="k", priority=1)]) == ["k"]
            await e.limit_agent(CODE, 60_000_000)
            await e.pause_agent(CODE, "x")
            await e.pause_workflow(flow, "x")
            assert (await hand_over(e, b, qa, 5)).agent == qa
            await e.resume_workflow(flow)
            await e.resume_agent(CODE)
            await e.limit_agent(CODE, 0)
            first = await claimed(e)
            assert (await e.finish(first, OK))[0] is State.COMPLETED
            given = await e.claim(qa, WorkerId("qa.1"), 30)
            assert given is not None
            assert (given.spec.id, given.attempt) == ("b", 1)
            bad = Outcome(ok=False, error="no", retry=False)
            assert (await e.finish(given, bad))[0] is State.FAILED
            assert await work_off(e) == ["a.undo", "k"]
            view = await e.workflow(flow)
            assert view.ended
            assert [t.state for t in view.tasks] == [
                State.COMPLETED, State.FAILED, *[State.CANCELLED] * 3, State.COMPLETED,
            ]  # fmt: skip
            assert await e.submit([task("k2", key="k")]) == ["k2"]

        asyncio.run(main())

    def test_a_connection_that_is_cut_is_made_again(self, own_redis: RedisServer) -> None:
        async def body(e: Engine) -> None:
            assert await e.claim(CODE, W1, 30) is None
            waiting = asyncio.create_task(handed(e))
            await asyncio.sleep(0.05)
            for n in range(5):
                own_redis.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                await e.submit([task(f"t{n}")])
            given = await waiting
            assert given.spec.id == "t0"
            assert await e.finish(given, OK) == (State.COMPLETED, None)

        run(own_redis.address, body)

    def test_a_notice_swallowed_by_a_dying_connection_is_found_again(self, redis_server: RedisServer) -> None:
        async def body(e: Engine) -> None:
            assert await e.claim(CODE, W1, 30) is None
            await e.submit([task("a")])
            await e.connection.command("DEL", "ai:inbox:code.1")
            given = await handed(e, W1, 0.05)
            assert given.spec.id == "a"

        run(redis_server.address, body)

    def test_waiters_survive_a_restart(self, own_redis: RedisServer) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a")])
            waiting = asyncio.create_task(e.wait([TaskId("a")], 20))
            await asyncio.sleep(0.05)
            own_redis.kill()
            await asyncio.to_thread(own_redis.start)
            await e.finish(await claimed(e), OK)
            assert (await waiting)[0].state is State.COMPLETED

        run(own_redis.address, body)

    def test_gone_for_good_is_said_in_time(self, own_redis: RedisServer) -> None:
        async def main() -> None:
            async with engine_on(own_redis.address, patience_s=0.2) as e:
                own_redis.kill()
                with pytest.raises(ConnectorUnavailable, match=own_redis.address):
                    await asyncio.wait_for(e.tick(), 5)
                with pytest.raises(ConnectorUnavailable):
                    await asyncio.wait_for(e.next_notice(W1, 5), 5)

        asyncio.run(main())

    def test_closing_leaves_nobody_waiting(self, redis_server: RedisServer) -> None:
        async def main() -> None:
            async with engine_on(redis_server.address) as e:
                waiting = asyncio.create_task(e.events("0-0", 30))
                await asyncio.sleep(0.05)
            with pytest.raises(ConnectorUnavailable):
                await asyncio.wait_for(waiting, 2)
            e.close()

        asyncio.run(main())


async def _reached(finished: list[str], goal: int) -> bool:
    return len(finished) >= goal


class TestServer:
    def test_open_waits_until_it_answers(self) -> None:
        server = new_redis()

        async def main() -> None:
            opening = asyncio.create_task(Connection.open(server.address, wait_s=10))
            await asyncio.sleep(0.1)
            await asyncio.to_thread(server.start)
            (await opening).close()

        try:
            asyncio.run(main())
        finally:
            remove_redis(server)

    def test_open_gives_up(self, tmp_path: Path) -> None:
        with pytest.raises(ConnectorUnavailable, match=r"none\.sock cannot be reached"):
            asyncio.run(Connection.open(str(tmp_path / "none.sock"), wait_s=0.1))

    @pytest.mark.parametrize(
        ("options", "durability"),
        [
            ((), "always"),
            (("--appendfsync", "everysec"), "everysec"),
            (("--appendonly", "no"), "off"),
            (("--rename-command", "CONFIG", ""), "unknown"),
        ],
    )
    def test_durability_is_known(self, tuned_redis: Any, options: tuple[str, ...], durability: str) -> None:
        async def main(address: str) -> None:
            async with await Connection.open(address) as connection:
                assert connection.durability == durability

        asyncio.run(main(tuned_redis(*options).address))

    def test_one_that_evicts_is_refused(self, tuned_redis: Any) -> None:
        server = tuned_redis("--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru")
        with pytest.raises(SystemProblem, match="allkeys-lru"):
            asyncio.run(Connection.open(server.address))

    def test_one_that_is_too_old_is_refused(
        self, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connector, "OLDEST_SERVER", (99, 0))
        with pytest.raises(SystemProblem, match=r"needs 99\.0"):
            asyncio.run(Connection.open(redis_server.address))

    def test_passwords(self, tuned_redis: Any) -> None:
        server = tuned_redis("--requirepass", "s3cret")
        with pytest.raises(ConnectorError, match="password"):
            asyncio.run(Connection.open(server.address))

        async def main(url: str) -> None:
            async with await Connection.open(url) as connection:
                assert "s3cret" not in f"{connection.address} {connection.address!r}"
                await connection.command("PING")

        asyncio.run(main(f"unix://:s3cret@{server.address}?db=3"))
        with pytest.raises(ConnectorError, match="refuses the user name or password") as caught:
            asyncio.run(main(f"unix://:wr0ng@{server.address}"))
        assert "wr0ng" not in str(caught.value)

    def test_full_memory_refuses_new_work_and_lets_old_work_end(self, tuned_redis: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a"), task("b")])
            claim = await claimed(e)
            await e.connection.command("CONFIG", "SET", "maxmemory", "1")
            with pytest.raises(ConnectorError, match="used all the memory"):
                await e.submit([task("c")])
            await e.beat("code", W1)
            assert (await e.finish(claim, OK, take_next=True))[0] is State.COMPLETED
            assert len(await e.list_tasks()) == 2

        run(tuned_redis().address, body)

    @pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system takes root")
    def test_full_disk_loses_nothing(self, tmp_path: Path) -> None:
        server = new_redis()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(server.folder)])
        if mounted.returncode != 0:
            shutil.rmtree(server.folder)
            pytest.skip("mount is not allowed here")
        accepted: list[TaskId] = []

        async def fill() -> None:
            async with engine_on(server.address, patience_s=0.1) as e:
                for n in range(100):
                    accepted.extend(await e.submit([task(f"t{n}", description="x" * 50_000)]))

        async def look() -> None:
            async with engine_on(server.address) as e:
                assert [v.id for v in await e.get_many(accepted)] == accepted

        try:
            server.start()
            with pytest.raises(
                ConnectorError
            ):  # Redis stops itself when it cannot write what it must confirm
                asyncio.run(fill())
            assert accepted
            server.kill()
            subprocess.run(["mount", "-o", "remount,size=8m", str(server.folder)], check=True)
            server.start()
            asyncio.run(look())
        finally:
            server.kill()
            subprocess.run(["umount", str(server.folder)], check=True)
            remove_redis(server)


class TestLibrary:
    def test_an_older_one_is_replaced_and_tasks_are_kept(self, redis_server: RedisServer) -> None:
        async def main() -> None:
            async with engine_on(redis_server.address) as e:
                await e.submit([task("a")])
                await _load(e.connection, version=0)
            async with engine_on(redis_server.address) as e:
                version = connector.LIBRARY_VERSION
                assert await e.connection.call("version") == [version, library()[1], version]
                assert await work_off(e) == ["a"]

        asyncio.run(main())

    def test_a_newer_one_is_left_alone(self, own_redis: RedisServer) -> None:
        async def main() -> None:
            async with engine_on(own_redis.address) as e:
                await _load(e.connection, version=99)
            with pytest.raises(Conflict, match="a newer ai-infra uses this Redis"):
                await Connection.open(own_redis.address)

        asyncio.run(main())

    def test_one_that_was_dropped_is_loaded_again(self, redis_server: RedisServer) -> None:
        async def body(e: Engine) -> None:
            await e.connection.command("FUNCTION", "FLUSH")
            await e.submit([task("a")])

        run(redis_server.address, body)

    def test_versions_agree(self) -> None:
        assert f"local VERSION = {connector.LIBRARY_VERSION}\n" in library()[0]


async def _load(connection: Connection, version: int) -> None:
    code = library()[0].replace(
        f"local VERSION = {connector.LIBRARY_VERSION}\n", f"local VERSION = {version}\n"
    )
    await connection.command("FUNCTION", "LOAD", "REPLACE", code)


class TestErrors:
    @pytest.mark.parametrize(
        ("reply", "kind", "words"),
        [
            ("CONFLICT task a is READY", Conflict, "task a is READY"),
            ("NOTFOUND task a does not exist", NotFound, "task a does not exist"),
            ("LOADING Redis is loading the dataset in memory", ConnectorUnavailable, "not ready"),
            ("BUSY Redis is busy running a script", ConnectorUnavailable, "not ready"),
            ("ERR max number of clients reached", ConnectorUnavailable, "not ready"),
            ("MASTERDOWN Link with MASTER is down", ConnectorUnavailable, "not ready"),
            ("CLUSTERDOWN The cluster is down", ConnectorUnavailable, "not ready"),
            ("UNBLOCKED force unblock, instance state changed", ConnectorUnavailable, "ended a wait"),
            ("TRYAGAIN Multiple keys request", ConnectorUnavailable, "not ready"),
            (
                "MISCONF Errors writing to the AOF file: No space left on device",
                ConnectorRefused,
                "disk full?",
            ),
            ("OOM command not allowed when used memory > 'maxmemory'.", ConnectorRefused, "maxmemory"),
            ("READONLY You can't write against a read only replica.", ConnectorRefused, "replica"),
            ("NOREPLICAS Not enough good replicas to write.", ConnectorRefused, "replicas"),
            ("NOAUTH Authentication required.", ConnectorError, "password"),
            ("WRONGPASS invalid username-password pair", ConnectorError, "password"),
            ("NOPERM User x has no permissions", ConnectorError, "right"),
            ("MOVED 3999 127.0.0.1:6381", ConnectorError, "cluster"),
            ("ASK 3999 127.0.0.1:6381", ConnectorError, "cluster"),
            ("CROSSSLOT Keys in request don't hash to the same slot", ConnectorError, "cluster"),
            ("ERR something new", ConnectorError, "something new"),
            ("WRONGTYPE Operation against a key", ConnectorError, "WRONGTYPE"),
            ("NOSCRIPT No matching script", ConnectorError, "NOSCRIPT"),
        ],
    )
    def test_every_reply_has_its_error(self, reply: str, kind: type[AiInfraError], words: str) -> None:
        error = translate(reply)
        assert type(error) is kind
        assert words in str(error)

    def test_something_that_is_not_redis(self, tmp_path: Path) -> None:
        async def main() -> None:
            path = str(tmp_path / "x.sock")

            async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                await writer.drain()
                writer.close()

            server = await asyncio.start_unix_server(greet, path)
            with pytest.raises(ConnectorUnavailable):
                await Connection.open(path, wait_s=0.1)
            server.close()
            await server.wait_closed()

        asyncio.run(main())

    def test_a_server_that_hangs(self, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connector, "ANSWER_S", 0.2)

        async def body(e: Engine) -> None:
            assert own_redis.process
            own_redis.process.send_signal(signal.SIGSTOP)
            try:
                with pytest.raises(ConnectorUnavailable, match="no answer"):
                    await e.submit([task("a")])
            finally:
                own_redis.process.send_signal(signal.SIGCONT)
            await e.submit([task("a")])
            assert await work_off(e) == ["a"]

        run(own_redis.address, body)

    @pytest.mark.parametrize(
        "text", ["", "x.sock", "http://a", "redis://h:x/0", "redis://h/x", "unix:///s?db=x"]
    )
    def test_an_address_that_is_none(self, text: str) -> None:
        with pytest.raises(ConfigError, match="Redis address"):
            parse_address(text)

    def test_addresses(self) -> None:
        address = parse_address("rediss://me:p%40ss@host:7000/2")
        assert (address.host, address.port, address.tls, address.db) == ("host", 7000, True, 2)
        assert (address.username, address.password) == ("me", "p@ss")
        assert str(address) == "rediss://host:7000/2"
        assert "p@ss" not in repr(address)
        assert parse_address("/run/r.sock").path == "/run/r.sock"


def test_one_claim_that_two_answers_tell_of_is_given_once(redis_server: RedisServer) -> None:
    """claim(), and the question after a lost notice, may be under way at the same time."""

    async def body(engine: Engine) -> None:
        for number in range(20):
            await engine.submit([task(f"twice-{number}")])
            asked = await asyncio.gather(engine.claim(CODE, W1, 30), engine._ask_again(W1))
            claims = [asked[0], asked[1].claim if asked[1] else None]
            given = [claim for claim in claims if claim is not None]
            assert len(given) == 1
            await engine.finish(given[0], OK)

    run(redis_server.address, body)
