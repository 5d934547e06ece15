from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from support import RawServer, Responses, session_for

from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from redis_server import RedisServer

    from aiomutex import MutexSession


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--loop", choices=["asyncio", "uvloop"], default="asyncio", help="the event loop of the tests")


def pytest_asyncio_loop_factories(config: pytest.Config) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    if config.getoption("--loop") == "asyncio":
        return {"asyncio": asyncio.new_event_loop}
    import uvloop  # noqa: PLC0415  # not everywhere, and not always asked for

    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True, scope="session")
def _own_state_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    """The command line counts requests in a directory of the tests: a new count waits a second, so not one a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    """Tests do not depend on the environment of the machine."""
    for name in (
        "AMPLITUDE_MANAGEMENT_API_KEY",
        "AIOMUTEX_REGION",
        "AIOMUTEX_BASE_URL",
        "AIOMUTEX_ALLOW_INSECURE_HTTP",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def nothing_arrives_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verified run does not wait ten seconds for a request without a response. Tests of that wait override this."""
    from aiomutex.bulk.late_writes import LateWrites  # noqa: PLC0415  # as late as the tests themselves

    init = LateWrites.__init__

    def without_waiting(self: LateWrites, attempt_timeout: float) -> None:
        init(self, attempt_timeout)
        self._wait = 0.0  # pyright: ignore[reportPrivateUsage]

    monkeypatch.setattr(LateWrites, "__init__", without_waiting)


@pytest.fixture
async def emulator() -> AsyncIterator[MutexEmulator]:
    """An emulator in this event loop, with ten groups and no limits."""
    async with MutexEmulator(groups=10, limits=False) as emulator:
        yield emulator


@pytest.fixture
async def session(emulator: MutexEmulator) -> AsyncIterator[MutexSession]:
    """An open session of the emulator that retries quickly and never waits for a permit."""
    async with session_for(emulator.url) as session:
        yield session


@pytest.fixture(scope="session")
def _redis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:  # pyright: ignore[reportUnusedFunction]
    from redis_server import RedisServer  # noqa: PLC0415  # only tests marked redis need redis-py

    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture
def redis_server(_redis_process: RedisServer) -> RedisServer:
    """The Redis that all tests of this run share, emptied. A test that stops or configures it uses ``start_redis``."""
    _redis_process.reset()
    return _redis_process


@pytest.fixture
def start_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RedisServer]]:
    """Start a Redis for this test alone, with more command-line options if given."""
    from redis_server import RedisServer  # noqa: PLC0415  # only tests marked redis need redis-py

    servers: list[RedisServer] = []

    def start(*options: str) -> RedisServer:
        servers.append(RedisServer(tmp_path_factory.mktemp("redis"), *options))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
async def raw() -> AsyncIterator[RawServer]:
    """A server that sends what a test says, byte for byte."""
    async with RawServer() as server:
        yield server


@pytest.fixture
async def raw_session(raw: RawServer) -> AsyncIterator[MutexSession]:
    """An open session of the raw server."""
    async with session_for(raw.url) as session:
        yield session


@pytest.fixture
def responses() -> Iterator[Responses]:
    """aioresponses: no socket, exact requests, any response."""
    with Responses() as responses:
        yield responses
