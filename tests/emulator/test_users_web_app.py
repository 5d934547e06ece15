"""How somebody else would test a web app that uses this library: with the fixture ``mutex_emulator`` and nothing more.

The app is made up: a console in which a team puts its experiments on slots.
"""

# ruff: noqa: TC001, TC003 - FastAPI reads the annotations of its routes

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
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
        status = next(status for kind, status in STATUSES if isinstance(error, kind))
        headers: dict[str, str] = {}
        if isinstance(error, RateLimitedError) and error.retry_after is not None:
            headers["Retry-After"] = f"{error.retry_after:.0f}"
        return JSONResponse({"error": str(error)}, status, headers)

    @app.get("/groups")
    async def groups(session: Session) -> list[str]:
        return [group.name async for group in session.list_groups()]

    @app.get("/groups/{group_id}")
    async def group(group_id: str, session: Session) -> dict[str, Any]:
        found = await session.get_group(group_id)
        return {"name": found.name, "slots": [slot.experiments for slot in found.slots]}

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


# ------------------------------------------------------------------------------------------------ its tests


@pytest.fixture
async def app(mutex_emulator: MutexEmulator) -> AsyncIterator[FastAPI]:
    app = make_app(api_key="any-key", base_url=mutex_emulator.url, deadline=20.0)
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def web(app: FastAPI) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(transport=ASGITransport(app), base_url="http://app") as web:
        yield web


async def test_groups_are_shown(mutex_emulator: MutexEmulator, web: AsyncClient) -> None:
    mutex_emulator.add_group("7", name="Checkout", slots=[{"percentage": 40, "experiments": [123]}, 60])
    assert (await web.get("/groups")).json() == ["Checkout"]
    assert (await web.get("/groups/7")).json() == {"name": "Checkout", "slots": [[123], []]}


async def test_a_group_is_created_once_though_the_answer_was_lost(
    mutex_emulator: MutexEmulator, web: AsyncClient
) -> None:
    mutex_emulator.fail_next(1, after_commit=True, method="POST")
    answer = await web.post("/groups", json={"name": "New", "key": "new", "shares": [30, 70]})
    assert answer.status_code == 201
    assert [group.name for group in mutex_emulator.groups.values()] == ["New"]
    assert [slot.percentage for slot in mutex_emulator.groups[answer.json()["id"]].slots] == [30, 70]


async def test_a_placement_is_one_write_of_exactly_these_experiments(
    mutex_emulator: MutexEmulator, web: AsyncClient
) -> None:
    mutex_emulator.add_group("7")
    assert (await web.put("/groups/7/slots/2", json={"experiments": [5, 6]})).status_code == 200
    assert [request.json for request in mutex_emulator.requests if request.method == "PATCH"] == [
        {"experiments": [5, 6]}
    ]
    assert mutex_emulator.groups["7"].slots[1].experiments == [5, 6]


async def test_a_removal_the_service_did_not_make_is_a_conflict(
    mutex_emulator: MutexEmulator, web: AsyncClient
) -> None:
    mutex_emulator.dialect = Dialect(slot_patch="merge")
    mutex_emulator.add_group("7", slots=[{"percentage": 100, "experiments": [5, 6]}])
    answer = await web.put("/groups/7/slots/1", json={"experiments": [5]})
    assert answer.status_code == 409


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/groups/404", 404, "group 404 does not exist"),
        ("/groups/.x", 422, "group_id"),
        ("/groups/a b", 422, "group_id"),
    ],
)
async def test_what_is_not_there_or_not_right_is_said(web: AsyncClient, path: str, status: int, words: str) -> None:
    answer = await web.get(path)
    assert answer.status_code == status
    assert words in answer.text


async def test_wrong_shares_never_reach_the_service(mutex_emulator: MutexEmulator, web: AsyncClient) -> None:
    answer = await web.post("/groups", json={"name": "New", "key": "new", "shares": [30, 30]})
    assert answer.status_code == 422
    assert not mutex_emulator.requests


async def test_a_service_that_wants_to_be_left_alone_is_unavailable_and_says_until_when(
    mutex_emulator: MutexEmulator, web: AsyncClient
) -> None:
    mutex_emulator.add_group("7")
    mutex_emulator.fail_next(1, status=429, retry_after=30)
    answer = await web.get("/groups/7")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30")


async def test_a_short_trouble_is_not_seen_at_all(mutex_emulator: MutexEmulator, web: AsyncClient) -> None:
    mutex_emulator.add_group("7", name="Checkout")
    mutex_emulator.fail_next(1, status=503)
    mutex_emulator.fail_next(1, kind="reset-before")
    assert (await web.get("/groups/7")).json()["name"] == "Checkout"
    assert len(mutex_emulator.requests) == 3


async def test_a_service_that_does_not_answer_is_a_timeout(mutex_emulator: MutexEmulator, app: FastAPI) -> None:
    mutex_emulator.fail_next(1, kind="stall")
    app.state.session = app.state.session.with_options(deadline=0.2)
    async with AsyncClient(transport=ASGITransport(app), base_url="http://app") as web:
        assert (await web.get("/groups/7")).status_code == 504


async def test_a_visitor_who_leaves_holds_nothing_back(
    mutex_emulator: MutexEmulator, web: AsyncClient, app: FastAPI
) -> None:
    mutex_emulator.add_group("7")
    mutex_emulator.fail_next(1, kind="stall")
    visit = asyncio.create_task(web.get("/groups/7"))
    while not mutex_emulator.requests:  # noqa: ASYNC110 - the emulator tells nobody
        await asyncio.sleep(0.005)
    visit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await visit
    assert "0 in flight" in repr(app.state.session)
    assert (await web.get("/groups/7")).status_code == 200


async def test_all_visitors_share_one_session_and_its_limit(mutex_emulator: MutexEmulator, web: AsyncClient) -> None:
    mutex_emulator.add_group("7")
    answers = await asyncio.gather(*(web.get("/groups/7") for _ in range(120)))
    assert {answer.status_code for answer in answers} == {200}
    assert mutex_emulator.limits.rejected == 0
    assert mutex_emulator.busiest_second() <= 100


async def test_each_test_starts_with_an_empty_service(mutex_emulator: MutexEmulator, web: AsyncClient) -> None:
    assert (await web.get("/groups")).json() == []
    assert len(mutex_emulator.requests) == 1
