"""How users test a web app that uses this library: with the fixture ``mutex_emulator`` alone.

The example is a console in which a team assigns its experiments to slots.
"""

# ruff: noqa: TC001, TC003  # FastAPI reads the annotations of its routes

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from httpx import ASGITransport, AsyncClient
from pydantic import BaseModel

from aiomutex import (
    ConflictError,
    DailyBudgetExhaustedError,
    DeadlineExceededError,
    InvalidRequestError,
    MutexError,
    MutexSession,
    NewGroup,
    NewSlot,
    NotFoundError,
    RateLimitedError,
    SlotEdit,
    VerificationError,
)
from aiomutex.emulator import Dialect
from aiomutex.testing import MutexEmulator

# ------------------------------------------------------------------------------------------------ the app


class Placement(BaseModel):
    experiments: list[int]


class Plan(BaseModel):
    name: str
    key: str
    shares: list[int]


def session_of(request: Request) -> MutexSession:
    session: MutexSession = request.app.state.session
    return session


Session = Annotated[MutexSession, Depends(session_of)]

STATUSES: list[tuple[type[MutexError], int]] = [
    (NotFoundError, 404),
    (InvalidRequestError, 422),
    (ConflictError, 409),
    (VerificationError, 409),
    (RateLimitedError, 503),
    (DailyBudgetExhaustedError, 503),
    (DeadlineExceededError, 504),
    (MutexError, 502),
]


def make_app(**settings: Any) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with MutexSession(**settings) as app.state.session:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.exception_handler(MutexError)
    async def on_error(request: Request, error: MutexError) -> JSONResponse:
        status = next(status for error_class, status in STATUSES if isinstance(error, error_class))
        headers: dict[str, str] = {}
        if isinstance(error, RateLimitedError) and error.retry_after is not None:
            headers["Retry-After"] = f"{error.retry_after:.0f}"
        return JSONResponse({"error": str(error)}, status, headers)

    @app.get("/groups")
    async def groups(session: Session) -> list[str]:
        return [group.name async for group in session.list_groups()]

    @app.get("/groups/{group_id}")
    async def group(group_id: str, session: Session) -> dict[str, Any]:
        result = await session.get_group(group_id)
        return {"name": result.name, "slots": [slot.experiments for slot in result.slots]}

    @app.post("/groups", status_code=201)
    async def create(plan: Plan, session: Session) -> dict[str, str]:
        slots = [NewSlot(percentage=share) for share in plan.shares]
        created = await session.create_group(NewGroup(project_id=1, name=plan.name, key=plan.key, slots=slots))
        return {"id": created.id}

    @app.put("/groups/{group_id}/slots/{slot}")
    async def place(group_id: str, slot: int, placement: Placement, session: Session) -> None:
        report = await session.edit_slots([SlotEdit(group_id, slot, experiments=placement.experiments)], verify=True)
        for outcome in report.failed:
            raise outcome.error or AssertionError

    return app


# ------------------------------------------------------------------------------------------------ the tests


@pytest.fixture
async def app(mutex_emulator: MutexEmulator) -> AsyncIterator[FastAPI]:
    app = make_app(api_key="any-key", base_url=mutex_emulator.url, deadline=20.0)
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def web(app: FastAPI) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(transport=ASGITransport(app), base_url="http://app") as web:
        yield web


async def test_groups_are_listed(mutex_emulator: MutexEmulator, web: AsyncClient) -> None:
    mutex_emulator.add_group("7", name="Checkout", slots=[{"percentage": 40, "experiments": [123]}, 60])
    assert (await web.get("/groups")).json() == ["Checkout"]
    assert (await web.get("/groups/7")).json() == {"name": "Checkout", "slots": [[123], []]}


async def test_a_group_is_created_once_even_if_the_response_is_lost(
    mutex_emulator: MutexEmulator, web: AsyncClient
) -> None:
    mutex_emulator.fail_next(1, after_commit=True, method="POST")
    response = await web.post("/groups", json={"name": "New", "key": "new", "shares": [30, 70]})
    assert response.status_code == 201
    assert [group.name for group in mutex_emulator.groups.values()] == ["New"]
    assert [slot.percentage for slot in mutex_emulator.groups[response.json()["id"]].slots] == [30, 70]


async def test_a_placement_is_one_write_with_exactly_these_experiments(
    mutex_emulator: MutexEmulator, web: AsyncClient
) -> None:
    mutex_emulator.add_group("7")
    assert (await web.put("/groups/7/slots/2", json={"experiments": [5, 6]})).status_code == 200
    assert [request.json for request in mutex_emulator.requests if request.method == "PATCH"] == [
        {"experiments": [5, 6]}
    ]
    assert mutex_emulator.groups["7"].slots[1].experiments == [5, 6]


async def test_a_removal_that_the_service_did_not_make_is_a_conflict(
    mutex_emulator: MutexEmulator, web: AsyncClient
) -> None:
    mutex_emulator.dialect = Dialect(slot_patch="merge")
    mutex_emulator.add_group("7", slots=[{"percentage": 100, "experiments": [5, 6]}])
    response = await web.put("/groups/7/slots/1", json={"experiments": [5]})
    assert response.status_code == 409


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/groups/404", 404, "group 404 does not exist"),
        ("/groups/.x", 422, "group_id"),
        ("/groups/a b", 422, "group_id"),
    ],
)
async def test_errors_have_a_status_and_a_message(web: AsyncClient, path: str, status: int, words: str) -> None:
    response = await web.get(path)
    assert response.status_code == status
    assert words in response.text


async def test_invalid_percentages_are_not_sent(mutex_emulator: MutexEmulator, web: AsyncClient) -> None:
    response = await web.post("/groups", json={"name": "New", "key": "new", "shares": [30, 30]})
    assert response.status_code == 422
    assert not mutex_emulator.requests


async def test_a_429_is_reported_as_unavailable_with_retry_after(
    mutex_emulator: MutexEmulator, web: AsyncClient
) -> None:
    mutex_emulator.add_group("7")
    mutex_emulator.fail_next(1, status=429, retry_after=30)
    response = await web.get("/groups/7")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "30")


async def test_transient_failures_are_retried(mutex_emulator: MutexEmulator, web: AsyncClient) -> None:
    mutex_emulator.add_group("7", name="Checkout")
    mutex_emulator.fail_next(1, status=503)
    mutex_emulator.fail_next(1, kind="reset-before")
    assert (await web.get("/groups/7")).json()["name"] == "Checkout"
    assert len(mutex_emulator.requests) == 3


async def test_a_stalled_service_is_a_gateway_timeout(mutex_emulator: MutexEmulator, app: FastAPI) -> None:
    mutex_emulator.fail_next(1, kind="stall")
    app.state.session = app.state.session.with_options(deadline=0.2)
    async with AsyncClient(transport=ASGITransport(app), base_url="http://app") as web:
        assert (await web.get("/groups/7")).status_code == 504


async def test_a_cancelled_request_leaks_nothing(mutex_emulator: MutexEmulator, web: AsyncClient, app: FastAPI) -> None:
    mutex_emulator.add_group("7")
    mutex_emulator.fail_next(1, kind="stall")
    request = asyncio.create_task(web.get("/groups/7"))
    while not mutex_emulator.requests:  # noqa: ASYNC110  # the emulator has no event for it
        await asyncio.sleep(0.005)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert "0 in flight" in repr(app.state.session)
    assert (await web.get("/groups/7")).status_code == 200


async def test_all_requests_share_one_session_and_its_limit(mutex_emulator: MutexEmulator, web: AsyncClient) -> None:
    mutex_emulator.add_group("7")
    # On a busy machine the emulator may see requests of two seconds in one, so the test measures where they are sent.
    mutex_emulator.limits.enforced = False
    started = perf_counter()
    responses = await asyncio.gather(*(web.get("/groups/7") for _ in range(120)))
    assert {response.status_code for response in responses} == {200}
    assert len(mutex_emulator.requests) == 120
    assert perf_counter() - started >= 1.0


async def test_each_test_starts_with_an_empty_emulator(mutex_emulator: MutexEmulator, web: AsyncClient) -> None:
    assert (await web.get("/groups")).json() == []
    assert len(mutex_emulator.requests) == 1
