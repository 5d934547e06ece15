from __future__ import annotations

import asyncio
import gc
import itertools
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
from bulk_support import HERE, EmulatorProcess, Process, assert_true, edits_for, left_over
from support import until

from aiomutex import ConfigurationError, InvalidRequestError, MutexSession, OutcomeStream, SlotEdit
from aiomutex.bulk.journal import Journal

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator
    from pathlib import Path

    from bulk_support import Editor

    from aiomutex import SlotOutcome
    from aiomutex.testing import MutexEmulator


class Source:
    """An endless input that records how many edits were pulled and whether it was closed."""

    def __init__(self, fails_at: int = -1, error: BaseException | None = None) -> None:
        self.pulled = 0
        self.closed = False
        self.fails_at = fails_at
        self.error = error or RuntimeError("input failed")

    async def edits(self) -> AsyncIterator[SlotEdit]:
        try:
            for n in itertools.count():
                if n == self.fails_at:
                    raise self.error
                self.pulled += 1
                yield edits_for(1, start=n)[0] if n % 2 else SlotEdit(1 + n % 20, 2, experiments=[n])
                if n % 10 == 0:
                    await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0)
            self.closed = True


async def test_the_input_is_pulled_only_a_limited_number_of_edits_ahead(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    emulator.latency = 0.005
    source = Source()
    async with session.stream_slot_edits(source.edits()) as outcomes:
        async for _ in outcomes:
            await asyncio.sleep(0.2)
            break
        assert source.pulled < 1_200
        assert outcomes.pulled == source.pulled
    assert source.closed


async def test_nothing_more_is_sent_while_outcomes_are_not_consumed(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    async with session.stream_slot_edits(edits_for(2_000), concurrency=10) as outcomes:
        await anext(outcomes)
        await asyncio.sleep(0.3)
        assert sum(emulator.writes.values()) < 64 + 2 * 10
        seen = 1
        async for _ in outcomes:
            seen += 1
    assert seen == 2_000


class LeavingError(Exception):
    """Raised inside the block of a stream."""


async def leave(way: str, outcomes: OutcomeStream, deadline: asyncio.Timeout) -> None:
    count = 0
    async for _ in outcomes:
        count += 1
        if count == 40:
            if way == "break":
                break
            if way == "exception":
                raise LeavingError("raised in the block")
            if way == "group":
                raise ExceptionGroup("raised in the block", [LeavingError("inside")])
            if way == "cancellation":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            if way == "deadline":
                await until(lambda: not outcomes.in_flight)
                deadline.reschedule(asyncio.get_running_loop().time())
                await asyncio.Event().wait()


ENDINGS: dict[str, type[BaseException] | None] = {
    "break": None,
    "exception": LeavingError,
    "group": ExceptionGroup,
    "cancellation": asyncio.CancelledError,
    "deadline": TimeoutError,
    "source": RuntimeError,
}


async def leave_early(emulator: MutexEmulator, editor: Editor, way: str, **options: Any) -> OutcomeStream:
    """Leave a stream in one of the ways, and check what all of them promise."""
    emulator.latency = "4ms±4ms"
    source = Source(fails_at=100 if way == "source" else -1)
    reported: list[SlotOutcome] = []
    stream = editor.stream_slot_edits(source.edits(), on_outcome=reported.append, **options)
    raised: BaseException | None = None
    try:
        async with asyncio.timeout(20) as deadline, stream as outcomes:
            await leave(way, outcomes, deadline)
    except (LeavingError, ExceptionGroup, asyncio.CancelledError, TimeoutError, RuntimeError) as error:
        raised = error
    task = asyncio.current_task()
    assert task is not None
    task.uncancel()
    assert type(raised) is (ENDINGS[way] or type(None))
    assert source.closed
    assert len({outcome.position for outcome in reported}) == len(reported)
    assert all(outcome in reported for outcome in stream.unfinished)
    assert stream.counts.total() == len(reported)
    emulator.latency = 0
    await asyncio.sleep(0.05)  # requests that had arrived are finished by now
    assert_true(emulator, reported)
    return stream


@pytest.mark.parametrize("way", ENDINGS)
async def test_leaving_early_ends_the_run_and_closes_the_input(
    emulator: MutexEmulator, editor: Editor, way: str
) -> None:
    await leave_early(emulator, editor, way)


@pytest.mark.parametrize("journaled", [False, True])
@pytest.mark.parametrize("way", ENDINGS)
async def test_leaving_early_cancels_requests_and_closes_the_journal(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path, way: str, journaled: bool
) -> None:
    journal = tmp_path / "run.db"
    stream = await leave_early(emulator, session, way, **({"journal": journal} if journaled else {}))
    assert not left_over(session)
    cancelled = {outcome.note for outcome in stream.unfinished if outcome.status == "unknown"}
    # The other ways leave when nothing is in flight.
    assert cancelled == (set() if way in ("deadline", "source") else {"in flight when the run was left"})
    if journaled:
        Journal(journal).close()  # fails if it is still open
    await session.get_group(1)


class SwallowingInput:
    """An input that swallows cancellations: a number of them, in its code or while it is closed."""

    def __init__(self, times: int, *, then: str) -> None:
        self.left = times
        self.then = then
        self.ends = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        while True:
            try:
                await asyncio.wait_for(self.ends.wait(), seconds)
            except TimeoutError:
                return
            except asyncio.CancelledError:
                if not self.left:
                    raise
                self.left -= 1
                if self.then == "goes on":
                    return
            else:
                return

    async def edits(self) -> AsyncIterator[SlotEdit]:
        try:
            for n in itertools.count(1):
                if n > 50:
                    await self.wait(0.05 if self.then == "goes on" else 60)
                yield SlotEdit(1 + n % 20, 1, experiments=[n])
        finally:
            if self.then == "waits while it is closed":
                await self.wait(60)


@pytest.mark.parametrize("then", ["goes on", "waits again", "waits while it is closed"])
@pytest.mark.parametrize("times", [1, 1_000])
@pytest.mark.parametrize("way", ["break", "exception", "cancellation", "stop"])
async def test_an_input_that_swallows_cancellations_ends_with_the_run(
    emulator: MutexEmulator,
    editor: Editor,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    times: int,
    then: str,
) -> None:
    monkeypatch.setattr("aiomutex.bulk.run._PATIENCE", 0.05)
    source = SwallowingInput(times, then=then)
    task = asyncio.current_task()
    assert task is not None
    raised: BaseException | None = None
    outcomes = editor.stream_slot_edits(source.edits())
    async with asyncio.timeout(20):
        try:
            async with outcomes:
                async for _ in outcomes:
                    if outcomes.counts.total() == 50:
                        if way == "break":
                            break
                        if way == "exception":
                            raise LeavingError("raised in the block")  # noqa: TRY301
                        if way == "cancellation":
                            task.cancel()
                        if way == "stop":
                            outcomes.stop()
        except (LeavingError, asyncio.CancelledError) as error:
            raised = error
            task.uncancel()
    pulled, writes = outcomes.pulled, sum(emulator.writes.values())
    await asyncio.sleep(0.15)
    assert outcomes.pulled == pulled
    # The workers of a fleet finish the jobs they have.
    assert sum(emulator.writes.values()) == writes or not isinstance(editor, MutexSession)
    never_ends = times > 1 and then != "goes on"
    assert ("abandoned" in caplog.text) == never_ends
    if raised is not None:
        assert any("abandoned" in note for note in getattr(raised, "__notes__", ())) == never_ends
    assert bool(left_over(editor)) == never_ends
    source.ends.set()
    await until(lambda: not left_over(editor))
    assert outcomes.pulled == pulled


async def test_outcomes_not_consumed_are_reported_after_the_block(emulator: MutexEmulator, editor: Editor) -> None:
    edits = edits_for(60)
    async with editor.stream_slot_edits(edits) as outcomes:
        while sum(emulator.writes.values()) < 60:  # noqa: ASYNC110  # the emulator has no event for it
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)
    assert {outcome.status for outcome in outcomes.unfinished} <= {"applied", "unknown"}
    assert len(outcomes.unfinished) == 60
    assert outcomes.counts.total() == 60
    assert_true(emulator, outcomes.unfinished)


async def test_stop_lets_requests_in_flight_finish_and_skips_the_rest(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    emulator.latency = 0.02
    reported: list[SlotOutcome] = []
    async with session.stream_slot_edits(edits_for(500), concurrency=8) as outcomes:
        async for outcome in outcomes:
            reported.append(outcome)
            if len(reported) == 10:
                outcomes.stop()
    assert not outcomes.unfinished
    assert outcomes.stopped_by is None
    assert {outcome.status for outcome in reported} == {"applied", "skipped"}
    applied = [outcome for outcome in reported if outcome.status == "applied"]
    assert 10 <= len(applied) <= 10 + 64 + 8
    assert all("stopped" in outcome.note for outcome in reported if outcome.status == "skipped")
    assert sum(emulator.writes.values()) == len(applied)


async def test_after_stop_every_edit_has_an_outcome_or_is_still_in_the_iterator(
    emulator: MutexEmulator, editor: Editor
) -> None:
    emulator.latency = 0.005
    source = iter(edits_for(5_000))
    reported = 0
    async with editor.stream_slot_edits(source) as outcomes:
        async for _ in outcomes:
            reported += 1
            if reported == 5:
                outcomes.stop()
    assert reported == outcomes.pulled
    assert reported + len(list(source)) == 5_000


async def test_an_exception_of_the_input_is_raised_unchanged_after_all_outcomes(
    emulator: MutexEmulator, editor: Editor
) -> None:
    seen: list[SlotOutcome] = []
    source = Source(fails_at=30)
    with pytest.raises(RuntimeError, match="input failed"):
        await editor.edit_slots(source.edits(), on_outcome=seen.append)
    assert len(seen) == 30
    assert_true(emulator, seen)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_item_that_is_not_an_edit_ends_the_run(
    emulator: MutexEmulator, editor: Editor, asynchronous: bool
) -> None:
    wrong: Any = [*edits_for(5), "not an edit", *edits_for(5)]

    async def source() -> AsyncIterator[SlotEdit]:
        for edit in wrong:
            yield edit

    async with asyncio.timeout(20):
        with pytest.raises(InvalidRequestError, match="str"):
            await editor.edit_slots(source() if asynchronous else iter(wrong))
    assert sum(emulator.writes.values()) <= 5


async def test_an_input_that_raises_cancelled_error_ends_the_run(emulator: MutexEmulator, editor: Editor) -> None:
    source = Source(fails_at=10, error=asyncio.CancelledError())
    async with asyncio.timeout(20):
        with pytest.raises(asyncio.CancelledError):
            await editor.edit_slots(source.edits())
    assert source.closed


async def test_an_exception_while_closing_the_input_is_raised_and_loses_no_outcome(
    emulator: MutexEmulator, editor: Editor
) -> None:
    class Stubborn:
        def __init__(self) -> None:
            self.left = iter(edits_for(30))

        def __aiter__(self) -> AsyncIterator[SlotEdit]:
            return self

        async def __anext__(self) -> SlotEdit:
            try:
                return next(self.left)
            except StopIteration:
                raise StopAsyncIteration from None

        async def aclose(self) -> None:
            raise RuntimeError("cannot be closed")

    reported: list[SlotOutcome] = []
    with pytest.raises(RuntimeError, match="cannot be closed"):
        await editor.edit_slots(Stubborn(), on_outcome=reported.append)
    assert [outcome.status for outcome in reported] == ["applied"] * 30


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("made_by", ["the test", "the run"])
async def test_an_input_generator_is_closed_when_the_stream_is_left_early(
    emulator: MutexEmulator, editor: Editor, asynchronous: bool, made_by: str
) -> None:
    closed: list[bool] = []

    class Asynchronous:
        async def __aiter__(self) -> AsyncIterator[SlotEdit]:
            for edit in Synchronous():
                yield edit
            raise AssertionError("the input ended")

    class Synchronous:
        def __iter__(self) -> Iterator[SlotEdit]:
            try:
                yield from itertools.cycle(edits_for(20))
            finally:
                closed.append(True)

    many: Any = Asynchronous() if asynchronous else Synchronous()
    if made_by == "the test" or not asynchronous:
        many = aiter(many) if asynchronous else iter(many)
    async with editor.stream_slot_edits(many) as outcomes:
        async for outcome in outcomes:
            if outcome.position == 20:
                break
    gc.collect()  # closes the inner generator of an asynchronous one
    assert closed


async def test_an_exception_of_on_outcome_ends_the_run_and_it_is_not_called_again(
    emulator: MutexEmulator, editor: Editor
) -> None:
    reported: list[SlotOutcome] = []

    def fail(outcome: SlotOutcome) -> None:
        reported.append(outcome)
        raise LookupError(outcome.position)

    with pytest.raises(LookupError):
        await editor.edit_slots(edits_for(300), on_outcome=fail)
    assert len(reported) == 1
    assert not left_over(editor)


async def test_an_exception_of_on_outcome_hides_neither_a_cancellation_nor_an_error(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    def fail(outcome: SlotOutcome) -> None:
        if outcome.status == "unknown":
            raise LookupError

    emulator.latency = 0.5
    run = asyncio.create_task(session.edit_slots(edits_for(30), on_outcome=fail, canary=False))
    await until(lambda: emulator.requests)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    stream = session.stream_slot_edits(edits_for(30), on_outcome=fail, canary=False)
    with pytest.raises(KeyError) as caught:  # noqa: PT012  # the exception must come from the block
        async with stream:
            await until(lambda: stream.in_flight)
            raise KeyError("body")
    assert caught.value.__notes__ == ["on_outcome failed as well: LookupError()"]
    assert len(stream.unfinished) == stream.counts["unknown"] > 1
    stream = session.stream_slot_edits(edits_for(30), on_outcome=fail, canary=False)
    with pytest.raises(LookupError):
        async with stream:
            await until(lambda: stream.in_flight)


async def test_a_generator_around_a_stream_can_be_closed_early(emulator: MutexEmulator, editor: Editor) -> None:
    async def outcomes_of(edits: list[SlotEdit]) -> AsyncGenerator[SlotOutcome]:
        async with editor.stream_slot_edits(edits) as outcomes:
            async for outcome in outcomes:
                yield outcome

    async with aclosing(outcomes_of(edits_for(300))) as outcomes:
        async for _ in outcomes:
            break
    assert not left_over(editor)


async def test_two_runs_can_be_concurrent(emulator: MutexEmulator, editor: Editor) -> None:
    one, two = await asyncio.gather(editor.edit_slots(edits_for(200)), editor.edit_slots(edits_for(200, start=1_000)))
    assert len(one.applied) == len(two.applied) == 200


async def test_a_stream_can_be_used_once_and_only_inside_its_block(editor: Editor) -> None:
    stream = editor.stream_slot_edits([])
    assert repr(stream) == "<OutcomeStream · not open>"
    with pytest.raises(ConfigurationError, match="async with"):
        await anext(stream)
    async with stream as outcomes:
        assert [outcome async for outcome in outcomes] == []
        with pytest.raises(StopAsyncIteration):
            await anext(outcomes)
    with pytest.raises(ConfigurationError, match="used once"):
        async with stream:
            pass


async def test_the_repr_of_a_stream_shows_its_progress(emulator: MutexEmulator, editor: Editor) -> None:
    async with editor.stream_slot_edits(edits_for(3)) as outcomes:
        async for _ in outcomes:
            pass
        assert repr(outcomes) == "<OutcomeStream 3 pulled · 0 in flight · 3 applied>"
    async with editor.stream_slot_edits([*edits_for(3), SlotEdit(99, 1, experiments=[1])]) as outcomes:
        async for _ in outcomes:
            pass
        assert repr(outcomes) == "<OutcomeStream 4 pulled · 0 in flight · 3 applied · 1 failed>"


async def test_an_endless_generator_can_be_the_input(emulator: MutexEmulator, editor: Editor) -> None:
    pulled = itertools.count()

    def endless() -> Iterator[SlotEdit]:
        for n in pulled:
            yield SlotEdit(1 + n % 20, 1, experiments=[n + 1])

    async with editor.stream_slot_edits(endless()) as outcomes:
        async for outcome in outcomes:
            if outcome.position > 100:
                break
    assert next(pulled) < 1_400


def peak(url: str, edits: int, *flags: str) -> int:
    """The peak memory in bytes of a process that runs this number of edits."""
    with Process(HERE / "memory_run.py", url, edits, *flags) as run:
        size: int = run.line()["peak"]
        return size


@pytest.mark.parametrize("flags", [(), pytest.param(("journal", "verify"), marks=pytest.mark.deep)])
@pytest.mark.parametrize(("few", "many"), [(500, 2_000), pytest.param(3_000, 30_000, marks=pytest.mark.deep)])
def test_memory_does_not_grow_with_the_number_of_edits(few: int, many: int, flags: tuple[str, ...]) -> None:
    with EmulatorProcess(groups=2_000, limits=False, keep_requests=10) as emulator:
        sizes = peak(emulator.url, few, *flags), peak(emulator.url, many, *flags)
    assert sizes[1] - sizes[0] < 12e6, sizes
