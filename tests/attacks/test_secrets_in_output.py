"""The key leaves a process in one header only. No command prints or writes it, and workers do not share it."""

from __future__ import annotations

import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final

import command_line
import msgspec
import pytest
import redis.asyncio
from support import GROUP, KEY, session_for

from aiomutex import APIError, SlotEdit, retry
from aiomutex.fleet.wire import JobRequest, pack_error
from aiomutex.limits.redis import RedisRateLimiter
from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from redis_server import RedisServer

PAGE: Final = b'{"mutexes":[%s],"nextCursor":null}' % GROUP


class Echo(BaseHTTPRequestHandler):
    """Repeats the key in each header and in the body, with the server's ``status``."""

    protocol_version = "HTTP/1.1"
    seen: Final[list[str]] = []

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        server: Any = self.server
        key = self.headers["Authorization"]
        self.seen.append(key)
        body = f'{{"message": "you sent {key}", "error": "{key}"}}'.encode()
        status = server.status
        if status == 0:  # a service that works, but repeats the key in its headers
            status, body = 200, PAGE if "?" in self.path else GROUP
        self.send_response(status, key)
        for name in ("X-Request-Id", "Location", "X-Echo", "Set-Cookie", "Content-Type"):
            self.send_header(name, key)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PATCH = do_POST = answer  # noqa: N815  # names that http.server requires

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name in the base class
        """Log nothing."""


def no_wait(_attempt: int, **_options: float) -> float:
    return 0.0


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setenv("AIOMUTEX_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AMPLITUDE_MANAGEMENT_API_KEY", KEY)
        # The most verbose settings: the debug mode of asyncio, and all log levels.
        monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
        monkeypatch.setattr(retry, "backoff", no_wait)
        monkeypatch.chdir(tmp_path)
        Echo.seen.clear()
        yield server
        server.shutdown()


COMMANDS: Final = (
    "groups list",
    "groups list --json",
    "groups get 7",
    "groups get 7 --json",
    "groups create --project 1 --name n --key k --slot 100",
    "groups edit 7 --name n",
    "groups archive 7 --yes",
    "slots edit 7 1 --experiments 5",
    "slots edit 7 1 --experiments 5 --verify",
    "slots bulk edits.jsonl --journal run.db --verify --failures failed.jsonl",
    "slots bulk --undo run.db",
    "pull groups.yaml",
    "plan expected.yaml --out changes.plan --check-running",
    "plan expected.yaml --json",
    "apply expected.yaml --yes --journal apply.db --allow-running",
    "lint expected.yaml --check-modes",
    "traffic show",
    "traffic where ada",
    "traffic simulate users.txt",
    "probe --out probe.json",
)


@pytest.mark.parametrize(
    "status", [0, 400, *(pytest.param(status, marks=pytest.mark.deep) for status in (200, 302, 401, 404, 503))]
)
def test_no_command_prints_logs_or_writes_the_key(
    echo: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    echo.status = status
    caplog.set_level(logging.DEBUG)
    (tmp_path / "edits.jsonl").write_text('{"group_id": "7", "slot_index": 1, "experiments": [5]}\n')
    (tmp_path / "users.txt").write_text("ada\n")
    expected = "{projectId: 1, key: mutex-key, slots: [{percentage: 95, experiments: [1]}, {percentage: 5}]}"
    (tmp_path / "expected.yaml").write_text(f"groups: [{expected}]")
    for words in COMMANDS:
        done = command_line.run(*words.split())
        assert done.exception is None or isinstance(done.exception, SystemExit), (words, done.exception)
        assert KEY not in done.output, words
    assert set(Echo.seen) == {f"Bearer {KEY}"}
    assert KEY not in caplog.text
    assert [path.name for path in tmp_path.iterdir() if KEY.encode() in path.read_bytes()] == []
    assert {"failed.jsonl", "run.db"} <= {path.name for path in tmp_path.iterdir()}


def test_jobs_and_results_of_a_fleet_do_not_hold_the_key() -> None:
    error = APIError("you sent ***", status=400, method="PATCH", path="/api/1/mutexes/7/slots/1", body="***")
    job = JobRequest("/api/1/mutexes/7/slots/1", msgspec.Raw(b'{"experiments":[5]}'))
    assert KEY not in repr(pack_error(error)) + repr(job)


@pytest.mark.redis
async def test_redis_does_not_hold_the_key(redis_server: RedisServer) -> None:
    async with MutexEmulator(groups=2, limits=False) as emulator:
        limiter = RedisRateLimiter(redis_server.url, name="project 1")
        async with session_for(emulator.url, rate_limiter=limiter) as session:
            await session.edit_slots(SlotEdit("1", 1, experiments=[n]) for n in range(20))
            await session.get_group("2")
        client: Any = redis.asyncio.Redis(port=redis_server.port)
        async with client:
            names = [name async for name in client.scan_iter()]
            held = names + [await client.dump(name) for name in names]
            commands = await client.slowlog_get(100) + [await client.info("everything")]
        await limiter.aclose()
    assert names
    assert [value for value in held if KEY.encode() in value] == []
    assert KEY not in repr(commands) + repr(limiter)
