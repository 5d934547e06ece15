from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support import no_lag

from aiomutex import MutexGroup, MutexSession, Slot
from aiomutex.emulator import MutexEmulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(autouse=True)
def _reads_do_not_lag(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    """Runs do not wait ten seconds before they read an unexpected slot again."""
    no_lag(monkeypatch)


@pytest.fixture
def emulator() -> Iterator[MutexEmulator]:
    with MutexEmulator(limits=False) as running:
        yield running


@pytest.fixture
async def session(emulator: MutexEmulator) -> AsyncIterator[MutexSession]:
    async with MutexSession("key", base_url=emulator.url) as opened:
        yield opened


@pytest.fixture
def group() -> MutexGroup:
    return MutexGroup(
        id="7",
        project_id="1",
        name="Checkout",
        key="checkout",
        evaluation_mode="local",
        bucketing_key="device_id",
        bucketing_salt="abcd",
        slots=[
            Slot(index=1, percentage=40, experiments=[123], holdouts=[5], individuals=["ada"], cohorts=["c1"]),
            Slot(index=2, percentage=60, experiments=[456, 789]),
        ],
    )


@pytest.fixture
def nothing_immutable_written(emulator: MutexEmulator) -> Iterator[None]:
    """Checks after the test that no write contained a field that is fixed at creation."""
    yield
    for request in emulator.requests:
        if request.method == "PATCH":
            assert set(request.json) <= {"name", "description", "archive", "experiments", "holdouts", "individuals"}
