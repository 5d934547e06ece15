"""Users of a web app. Each sends a request, waits, pauses, and sometimes disconnects before the response.

They use HTTP in as few instructions as Python allows, so that benchmarks measure the app.
"""

from __future__ import annotations

import asyncio
import random
import time

import msgspec

__all__ = ["USERS", "Crowd", "crowd"]

USERS = 200


class Crowd(msgspec.Struct):
    """The figures of all users."""

    waits: list[float] = []
    """Milliseconds until each response."""
    errors: list[str] = []
    """Wrong responses."""
    disconnected: int = 0
    seconds: float = 0.0

    def quantile(self, share: float) -> float:
        return sorted(self.waits)[min(len(self.waits) - 1, int(len(self.waits) * share))]


class _User:
    """One keep-alive connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.writer: asyncio.StreamWriter | None = None

    async def send(self, path: str) -> None:
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: app\r\n\r\n".encode())

    async def response(self) -> tuple[int, str]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        return int(head.split(b" ", 2)[1]), (await self.reader.readexactly(length)).decode()

    def disconnect(self) -> None:
        if self.writer is not None:
            self.writer.transport.abort()
        self.writer = None


async def crowd(
    port: int, seconds: float, groups: int, *, think: float, users: int = USERS, keyed: bool = True, seed: int = 1
) -> Crowd:
    """Send requests for ``seconds``: nine in ten read a group, one edits a slot.

    Args:
        port: The port of the app on this machine.
        seconds: How long users send requests. Requests in flight are then completed.
        groups: The number of groups.
        think: Average seconds of a pause between a response and the next request; at most twice as long. Users who
            pause also disconnect one time in fifty.
        users: The number of users.
        keyed: Whether each group has its own key, so that responses can be checked.
        seed: The seed of all random choices.
    """
    result = Crowd()
    end = time.perf_counter() + seconds

    async def live(number: int) -> None:
        order = random.Random(f"{seed}.{number}")
        user, responses = _User(port), 0
        await asyncio.sleep(order.triangular(0, 2 * think, 0))  # so that users do not start at the same time
        while (start := time.perf_counter()) < end or not responses:
            group, edits = 1 + order.randrange(groups), not order.randrange(10)
            wanted = str(order.randrange(10**6)) if edits else f"group-{group}"
            await user.send(f"/groups/{group}/{wanted}" if edits else f"/groups/{group}")
            if think and not order.randrange(50):
                await asyncio.sleep(order.random() * 0.03)
                user.disconnect()
                result.disconnected += 1
            else:
                status, text = await user.response()
                result.waits.append((time.perf_counter() - start) * 1e3)
                responses += 1
                if status != 200 or ((keyed or edits) and text != wanted):
                    result.errors.append(f"{status} {text} instead of {wanted}")
            if think:
                await asyncio.sleep(min(order.uniform(0, 2 * think), end - time.perf_counter()))
        user.disconnect()

    start = time.perf_counter()
    # A user without any response is an error too.
    async with asyncio.timeout(seconds + 60), asyncio.TaskGroup() as group:
        for number in range(users):
            group.create_task(live(number))
    result.seconds = time.perf_counter() - start
    return result
