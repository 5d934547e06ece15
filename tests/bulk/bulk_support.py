"""Shared by the tests of bulk edits: edits, their expected effect, checks of what a run did, and other processes."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import support
from support import idle

from aiomutex import UNSET, DailyBudgetExhaustedError, LocalRateLimiter, MutexSession, SlotEdit
from aiomutex.limits import LimiterState, Priority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import pytest

    from aiomutex import MutexError, SlotOutcome
    from aiomutex.fleet import Fleet
    from aiomutex.testing import MutexEmulator

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parent.parent
LISTS: Final = ("experiments", "holdouts", "individuals")

Slots = dict[tuple[str, int], dict[str, list[Any]]]
if TYPE_CHECKING:
    Editor = MutexSession | Fleet
    """What edits slots."""


def session_for(url: str, **options: Any) -> MutexSession:
    """A session with short back-offs that never waits for a permit, not even after a 429.

    A limiter of a million a second takes a while to look back at its last second.
    """
    return support.session_for(url, **({"rate_limiter": LocalRateLimiter(5_000, 10_000_000)} | options))


def edits_for(count: int, *, groups: int = 20, slots: int = 3, start: int = 1) -> list[SlotEdit]:
    """Edits that take turns at the groups and slots. Each writes a different experiment, which identifies it."""
    return [SlotEdit(1 + n % groups, 1 + n // groups % slots, experiments=[start + n]) for n in range(count)]


def after(edits: Iterable[SlotEdit], before: Slots | None = None) -> Slots:
    """What the slots hold after the edits, one by one, if the service replaces lists."""
    slots = {address: dict(lists) for address, lists in (before or {}).items()}
    for edit in edits:
        lists = slots.setdefault((str(edit.group_id), edit.slot_index), {})
        for field in LISTS:
            if (items := getattr(edit, field)) is not UNSET:
                lists[field] = list(items)
    return slots


def held(emulator: MutexEmulator, slots: Iterable[tuple[str, int]]) -> Slots:
    """What the service holds in these slots."""
    return {
        (group, index): {field: list(getattr(emulator.groups[group].slots[index - 1], field)) for field in LISTS}
        for group, index in slots
    }


def assert_holds(emulator: MutexEmulator, expected: Slots) -> None:
    """Assert that the service holds the expected lists. Other lists do not count."""
    found = held(emulator, expected)
    assert {
        address: {field: found[address][field] for field in lists} for address, lists in expected.items()
    } == expected


def landed(emulator: MutexEmulator) -> list[tuple[str, int, Any]]:
    """Every slot write that the service made, in order: group, slot and body."""
    return [
        (commit.group_id, commit.slot_index, commit.body)
        for commit in emulator.commits
        if commit.slot_index is not None
    ]


def assert_in_order(emulator: MutexEmulator, edits: Sequence[SlotEdit]) -> None:
    """Assert that each slot was written in the order of the edits. Repeats after a lost response do not count."""
    expected: dict[tuple[str, int], list[Any]] = {}
    for edit in edits:
        expected.setdefault((str(edit.group_id), edit.slot_index), []).append(edit.experiments)
    found: dict[tuple[str, int], list[Any]] = {}
    for group, slot, body in landed(emulator):
        written = found.setdefault((group, slot), [])
        if not written or written[-1] != body["experiments"]:
            written.append(body["experiments"])
    assert found == expected


def assert_true(emulator: MutexEmulator, reported: Iterable[SlotOutcome]) -> None:
    """Assert that each outcome agrees with what the service did. Each edit must write a different experiment."""
    writes = {_number(body) for _, _, body in landed(emulator)}
    statuses = {
        _number({field: getattr(outcome.edit, field) for field in LISTS}): outcome.status for outcome in reported
    }
    for write in writes:
        assert statuses.get(write) in ("applied", "unknown"), f"{write} was written but reported {statuses.get(write)}"
    for number, status in statuses.items():
        assert status != "applied" or number in writes, f"{number} was reported applied but never written"


def _number(lists: dict[str, Any]) -> tuple[Any, ...]:
    return next(tuple(lists[field]) for field in LISTS if lists.get(field, UNSET) is not UNSET)


def left_over(editor: Editor) -> list[str]:
    """The tasks, and the session if it is not idle, that a run left behind in this event loop."""
    # The worker of a fleet runs in this event loop, too, and continues with its jobs.
    prefix = "aiomutex" if isinstance(editor, MutexSession) else "aiomutex fleet run"
    left = [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith(prefix)]
    if isinstance(editor, MutexSession) and not idle(editor):
        left.append(repr(editor))
    return left


def in_seconds(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


class BudgetLimiter:
    """A limiter that grants ``permits`` requests, and no more until ``resets_at``.

    With a ``timedelta``, that is so long after the first rejection, however long the requests before it take.
    """

    def __init__(self, permits: int, resets_at: datetime | timedelta, error: type[MutexError] | None = None) -> None:
        self.permits = permits
        self.resets_in = resets_at if isinstance(resets_at, timedelta) else None
        self.resets_at = resets_at if isinstance(resets_at, datetime) else in_seconds(86_400)
        self.given = 0
        self.rejected = 0
        self.per_day = 1_000
        self.per_window = 100
        self.used = 0
        self.error = error

    async def acquire(self, priority: Priority = Priority.INTERACTIVE) -> float:
        await asyncio.sleep(0)
        if self.given >= self.permits and datetime.now(UTC) < self.resets_at:
            if self.resets_in is not None and not self.rejected:
                self.resets_at = datetime.now(UTC) + self.resets_in
            self.rejected += 1
            raise DailyBudgetExhaustedError("used up", resets_at=self.resets_at, used=self.given, limit=self.permits)
        self.given += 1
        self.used += 1
        return asyncio.get_running_loop().time()

    def throttled(self, permit: float, retry_after: float | None = None) -> None:
        pass

    def answered(self, permit: float) -> None:
        pass

    def state(self) -> LimiterState:
        return LimiterState(
            used=0,
            per_window=self.per_window,
            window=1.0,
            used_today=self.used,
            per_day=self.per_day,
            resets_at=self.resets_at,
            waiting=0,
            paused_for=0.0,
        )

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *error: object) -> None:
        pass


class InlineExecutor:
    """In place of a journal's thread: commits in the event loop, so that a run always takes the same iterations."""

    def __init__(self, *_: object) -> None:
        pass

    def submit(self, work: Callable[[], object]) -> Future[object]:
        future: Future[object] = Future()
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001  # the future raises it
            future.set_exception(error)
        return future

    def shutdown(self) -> None:
        pass


def commit_inline(patch: pytest.MonkeyPatch) -> None:
    """Make journals commit in the event loop, in the next iteration."""
    patch.setattr("aiomutex.bulk.journal_file.ThreadPoolExecutor", InlineExecutor)
    patch.setattr("aiomutex.bulk.journal_file._COLLECT", 0)


# ---------------------------------------------------------------------------------------------- other processes


class Process:
    """A Python process that prints one line of JSON when it is ready."""

    def __init__(self, *arguments: object, env: dict[str, str] | None = None) -> None:
        self.arguments = [sys.executable, *map(str, arguments)]
        self.env = os.environ | {"PYTHONPATH": f"{ROOT}:{HERE}:{HERE.parent}"} | (env or {})

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self.arguments, cwd=ROOT, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()

    def line(self) -> Any:
        """Wait for the next line it prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.communicate()[1])
        return json.loads(line)

    def kill(self) -> int:
        """Send SIGKILL and return the exit code, which shows whether the process was still running."""
        self.process.kill()
        return self.process.wait()


class EmulatorProcess(Process):
    """An emulator in a separate process. ``ask`` fetches what happened there."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(HERE / "emulator_process.py", json.dumps(settings))

    def __enter__(self) -> Self:
        super().__enter__()
        self.url: str = self.line()["url"]
        return self

    def ask(self, page: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/test/{page}", timeout=10) as response:
            return json.load(response)
