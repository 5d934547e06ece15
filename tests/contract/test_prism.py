"""Prism, as a validating proxy between the client and the emulator, finds no violation of the contract by either.

With ``--errors`` Prism responds to an invalid request with 4xx and replaces an invalid response by a 500, so neither
can go unnoticed.
"""

from __future__ import annotations

import socket
import subprocess
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

import aiomutex.emulator
from aiomutex import (
    BadRequestError,
    ConflictError,
    LocalRateLimiter,
    MutexSession,
    NewGroup,
    NewSlot,
    NotFoundError,
    RetryPolicy,
    ServerError,
    SlotEdit,
)
from aiomutex.emulator import Dialect, MutexEmulator

from .pairwise import describe, dialects

if TYPE_CHECKING:
    from collections.abc import Generator

CONTRACT = Path(aiomutex.emulator.__file__).parent / "openapi.json"
START_TIMEOUT = 60.0
"""Seconds that Prism has to start; Node is slow to start on a busy machine."""


@contextmanager
def proxy(prism: str, upstream: str, log: Path) -> Generator[str]:
    """Run Prism in front of ``upstream``; yield its URL."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [prism, "proxy", str(CONTRACT), upstream, "--errors", "--host=127.0.0.1", f"--port={port}"],
            stdout=out,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            wait_for(port, process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = monotonic() + START_TIMEOUT
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if process.poll() is not None or monotonic() > deadline:
                pytest.fail(f"Prism did not start:\n{log.read_text()}")
            sleep(0.05)
        else:
            return


def session_of(url: str) -> MutexSession:
    limiter = LocalRateLimiter(per_second=100_000, per_day=100_000_000)
    return MutexSession("any-key", base_url=url, rate_limiter=limiter, retry=RetryPolicy(max_attempts=1))


@pytest.mark.deep
async def test_prism_finds_no_violation_in_either_direction(prism: str, tmp_path: Path) -> None:
    log = tmp_path / "prism.log"
    statuses: Counter[int | None] = Counter()
    with MutexEmulator(groups=7, limits=False) as emulator, proxy(prism, emulator.url, log) as url:
        async with session_of(url) as session:
            start = emulator.snapshot()
            for dialect in dialects():
                emulator.restore(start)
                emulator.dialect = dialect
                emulator.requests.clear()
                try:
                    await call_everything(session, dialect)
                except Exception as error:
                    error.add_note(f"under {describe(dialect)}")
                    raise
                statuses.update(request.status for request in emulator.requests)
    lines = violations(log)
    by_status = ", ".join(f"{count} with {status}" for status, count in sorted(statuses.items(), key=str))
    print(f"\nPrism: {len(dialects())} dialects, {statuses.total()} requests ({by_status}), {len(lines)} violations")
    assert not lines
    assert {200, 400, 404, 409} <= set(statuses)


async def call_everything(session: MutexSession, dialect: Dialect) -> None:
    """Call each endpoint with every field, and provoke each kind of rejection."""
    await session.list_page(limit=1000)
    await session.list_groups(page_size=3).collect()
    await session.get_group("3")
    await session.edit_group("3", name="n", description=None)
    await session.edit_group("3", description="d")
    await session.edit_slots([SlotEdit(group, slot, experiments=[1, 2]) for group in (3, 4) for slot in (1, 2, 3)])
    await session.edit_slot("3", 1, experiments=[], holdouts=[7], individuals=["x@amplitude.com"])
    await session.archive_group("3")
    await session.list_page()
    await session.get_group("3")
    await session.unarchive_group("3")
    full = NewSlot(percentage=40, experiments=[1], holdouts=[2], individuals=["x"])
    group = NewGroup(
        project_id="1",
        name="New",
        key="new",
        description=None,
        evaluation_mode="local",
        bucketing_key="device_id",
        bucketing_salt="salt",
        slots=[full, NewSlot(percentage=60)],
    )
    await session.create_group(group)
    await session.create_group(NewGroup(project_id=1, name="Small", slots=[NewSlot(percentage=100)]))
    with pytest.raises(BadRequestError if dialect.taken_key == 400 else ConflictError):
        await session.create_group(group)
    with pytest.raises(NotFoundError):
        await session.get_group("no-such-group")
    with pytest.raises(NotFoundError):
        await session.edit_slot("4", 20, experiments=[1])


def violations(log: Path) -> list[str]:
    """The lines in which Prism logs a failed request or a violation."""
    lines = log.read_text().splitlines()
    return [line for line in lines if "terminated with error" in line or "violation" in line.lower()]


@pytest.mark.deep
async def test_prism_finds_violations_if_there_are_any(prism: str, tmp_path: Path) -> None:
    log = tmp_path / "prism.log"
    with MutexEmulator(groups=7, limits=False) as emulator, proxy(prism, emulator.url, log) as url:
        async with session_of(url) as session, aiohttp.ClientSession() as http:
            emulator.fail_next(1, kind="garbage", body={"mutexes": [{"id": 1}], "nextCursor": None})
            with pytest.raises(ServerError) as caught:
                await session.list_page()
            assert "VIOLATIONS" in caught.value.body
            sent: dict[str, Any] = {"experiments": ["one"]}
            headers = {"Authorization": "Bearer any-key"}
            async with http.patch(f"{url}/api/1/mutexes/1/slots/1", json=sent, headers=headers) as response:
                assert response.status == 422
            async with http.get(f"{url}/api/1/mutexes?limit=1001", headers=headers) as response:
                assert response.status == 422
    assert violations(log)
