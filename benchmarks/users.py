"""People in front of a web app: each asks, waits, thinks, and now and then hangs up before the answer.

They speak HTTP in as few instructions as Python allows, so that the app is what is measured.
"""

from __future__ import annotations

import asyncio
import random
import time

import msgspec

__all__ = ["USERS", "Crowd", "crowd"]

USERS = 200


class Crowd(msgspec.Struct):
    """How a crowd fared."""

    waits: list[float] = []
    """Milliseconds until each answer."""
    errors: list[str] = []
    """Answers that were not what was asked for."""
    hung_up: int = 0
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

    async def answer(self) -> tuple[int, str]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        return int(head.split(b" ", 2)[1]), (await self.reader.readexactly(length)).decode()

    def leave(self) -> None:
        if self.writer is not None:
            self.writer.transport.abort()
        self.writer = None


async def crowd(
    port: int, seconds: float, groups: int, *, think: float, users: int = USERS, keyed: bool = True, seed: int = 1
) -> Crowd:
    """Let users ask for ``seconds``: nine in ten requests read a group, one edits a slot.

    Args:
        port: Where the app listens on this machine.
        seconds: How long they ask; who waits then gets an answer still.
        groups: How many groups there are.
        think: Seconds that a user thinks between an answer and the next question, on average; twice as long at the
            most. Who thinks also hangs up: one time in fifty.
        users: How many there are.
        keyed: Whether each group has its own key, which tells answers apart.
        seed: What they ask and how long they think is drawn from.
    """
    told = Crowd()
    end = time.perf_counter() + seconds

    async def live(number: int) -> None:
        order = random.Random(f"{seed}.{number}")
        user, answered = _User(port), 0
        await asyncio.sleep(order.triangular(0, 2 * think, 0))  # as if they had been at it before
        while (start := time.perf_counter()) < end or not answered:
            group, edits = 1 + order.randrange(groups), not order.randrange(10)
            wanted = str(order.randrange(10**6)) if edits else f"group-{group}"
            await user.send(f"/groups/{group}/{wanted}" if edits else f"/groups/{group}")
            if think and not order.randrange(50):
                await asyncio.sleep(order.random() * 0.03)
                user.leave()
                told.hung_up += 1
            else:
                status, text = await user.answer()
                told.waits.append((time.perf_counter() - start) * 1e3)
                answered += 1
                if status != 200 or ((keyed or edits) and text != wanted):
                    told.errors.append(f"{status} {text}, and {wanted} was asked for")
            if think:
                await asyncio.sleep(min(order.uniform(0, 2 * think), end - time.perf_counter()))
        user.leave()

    start = time.perf_counter()
    # Who is never answered is an error as well.
    async with asyncio.timeout(seconds + 60), asyncio.TaskGroup() as group:
        for number in range(users):
            group.create_task(live(number))
    told.seconds = time.perf_counter() - start
    return told
