from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from aiomutex.emulator import MutexEmulator

from .helpers import Api

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Start(Protocol):
    async def __call__(self, **options: Any) -> Api: ...


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts an emulator with the given options; it ends with the test."""
    async with AsyncExitStack() as stack:

        async def start(*, ssl: Any = True, **options: Any) -> Api:
            return await stack.enter_async_context(Api(MutexEmulator(**options), ssl=ssl))

        yield start


@pytest.fixture
async def api(start: Start) -> Api:
    """An emulator with three generated groups that speaks the default dialect, and its client."""
    return await start(groups=3)
