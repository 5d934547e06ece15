"""The limit as the service sees it: real sockets, TLS, processes and Redis against a strict sliding window."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from slow_tls import SlowTls

from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from redis_server import RedisServer

CLIENT = Path(__file__).with_name("client_process.py")


async def client(environment: dict[str, str] | None = None, **options: Any) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        CLIENT,
        json.dumps(options),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **(environment or {})},
    )
    assert process.stdout is not None
    output = await process.stdout.read()
    assert await process.wait() == 0
    result: dict[str, Any] = json.loads(output)
    return result


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    """A TLS context for localhost, and the path of the certificate authority that clients must trust."""
    ca = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost").configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  # admits pyOpenSSL's
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return context, str(path)


@pytest.mark.deep
async def test_fifteen_hundred_requests_over_cold_tls_connections_get_no_429(
    authority: tuple[ssl.SSLContext, str],
) -> None:
    context, trusted = authority
    # The emulator has its own thread, so its work adds no jitter.
    with MutexEmulator(groups=10) as emulator:
        async with SlowTls(emulator.port, context, handshake=(0.06, 0.18), jitter=0.02) as proxy:
            url = f"https://localhost:{proxy.port}"
            report = await client({"SSL_CERT_FILE": trusted}, url=url, requests=1500, tasks=200)
        assert proxy.connections >= 1500
        print(f"{report['throttled']} of 1,500 got a 429, {emulator.busiest_second()} in the busiest second")
        # 3 allows for moments in which the whole machine stalled. Permits taken before the connection is ready would
        # cause about a hundred 429s per thousand requests.
        assert report["throttled"] == emulator.limits.rejected <= 3


@pytest.mark.deep
@pytest.mark.redis
async def test_three_processes_share_one_budget_through_redis(redis_server: RedisServer) -> None:
    with MutexEmulator(groups=10) as emulator:
        reports = await asyncio.gather(
            *(client(url=emulator.url, requests=300, tasks=70, redis=redis_server.url) for _ in range(3))
        )
        # Each 429 falls into a second with more than a hundred requests, so this bounds the busiest second, too.
        assert emulator.limits.rejected <= 3, f"{emulator.busiest_second()} in the busiest second"  # 3 as above
        seconds = max(each["ended"] for each in reports) - min(each["started"] for each in reports)
        # A new budget in Redis waits one window. Then 95 requests a second are possible; a busy machine reaches fewer.
        assert 900 / (seconds - 1.1) >= 80
