"""A worker process: sends requests through a session and prints what happened as JSON.

Arguments, as one JSON object: ``url``, ``requests``, ``tasks``, and ``redis`` (a URL) for a shared limiter.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from typing import Any

from aiomutex import LocalRateLimiter, MutexSession, RateLimitedError, RetryPolicy


async def main(options: dict[str, Any]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        limiter: Any = LocalRateLimiter()
        if redis := options.get("redis"):
            from aiomutex.limits.redis import RedisRateLimiter  # noqa: PLC0415  # only this branch needs it

            limiter = RedisRateLimiter(redis, name="project")
            stack.push_async_callback(limiter.aclose)
        session = await stack.enter_async_context(
            MutexSession("a-key-of-some-length", base_url=options["url"], rate_limiter=limiter)
        )
        once = session.with_options(retry=RetryPolicy(max_attempts=1))
        remaining = iter(range(options["requests"]))
        throttled = 0

        async def work() -> None:
            nonlocal throttled
            for number in remaining:
                try:
                    await once.edit_slot(1 + number % 10, 1, experiments=[number])
                except RateLimitedError:
                    throttled += 1

        started = time.monotonic()
        await asyncio.gather(*(work() for _ in range(options["tasks"])))
        json.dump({"throttled": throttled, "started": started, "ended": time.monotonic()}, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
