"""What the tests of bulk edits share: edits to make, a model of what they leave, and what a run must not leave."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import support
from support import idle

from aiomutex import UNSET, LocalRateLimiter, MutexSession, SlotEdit
from aiomutex.limits import LimiterState, Priority

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

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
    """A session that is quick to send again and never held up, also after a 429.

    A limiter of a million a second takes a while to look back at its last second.
    """
    return support.session_for(url, **({"rate_limiter": LocalRateLimiter(5_000, 10_000_000)} | options))


def edits_for(count: int, *, groups: int = 20, slots: int = 3, start: int = 1) -> list[SlotEdit]:
    """Edits that go round the groups and slots; each writes an experiment of its own, so that it can be told apart."""
    return [SlotEdit(1 + n % groups, 1 + n // groups % slots, experiments=[start + n]) for n in range(count)]


def after(edits: Iterable[SlotEdit], before: Slots | None = None) -> Slots:
    """What the slots hold after the edits, one after the other, of a service that replaces lists."""
    slots = {address: dict(lists) for address, lists in (before or {}).items()}
    for edit in edits:
        lists = slots.setdefault((str(edit.group_id), edit.slot_index), {})
        for field in LISTS:
            if (items := getattr(edit, field)) is not UNSET:
                lists[field] = list(items)
    return slots


def held(emulator: MutexEmulator, slots: Iterable[tuple[str, int]]) -> Slots:
    """What the service holds in those slots."""
    return {
        (group, index): {field: list(getattr(emulator.groups[group].slots[index - 1], field)) for field in LISTS}
        for group, index in slots
    }


def assert_holds(emulator: MutexEmulator, wished: Slots) -> None:
    """The service holds what is wished, of the lists that are wished for."""
    found = held(emulator, wished)
    assert {address: {field: found[address][field] for field in lists} for address, lists in wished.items()} == wished


def landed(emulator: MutexEmulator) -> list[tuple[str, int, Any]]:
    """Every write of a slot that the service made, in order: group, slot and body."""
    return [
        (commit.group_id, commit.slot_index, commit.body)
        for commit in emulator.commits
        if commit.slot_index is not None
    ]


def assert_in_order(emulator: MutexEmulator, edits: Sequence[SlotEdit]) -> None:
    """Each slot was written in the order of the edits, all of them, repeats of a lost answer aside."""
    wished: dict[tuple[str, int], list[Any]] = {}
    for edit in edits:
        wished.setdefault((str(edit.group_id), edit.slot_index), []).append(edit.experiments)
    found: dict[tuple[str, int], list[Any]] = {}
    for group, slot, body in landed(emulator):
        written = found.setdefault((group, slot), [])
        if not written or written[-1] != body["experiments"]:
            written.append(body["experiments"])
    assert found == wished


def assert_true(emulator: MutexEmulator, told: Iterable[SlotOutcome]) -> None:
    """What was told of each edit agrees with what the service did; each edit writes a number of its own."""
    writes = {_number(body) for _, _, body in landed(emulator)}
    fates = {_number({field: getattr(outcome.edit, field) for field in LISTS}): outcome.status for outcome in told}
    for write in writes:
        assert fates.get(write) in ("applied", "unknown"), f"{write} landed, and {fates.get(write)} was told"
    for number, status in fates.items():
        assert status != "applied" or number in writes, f"{number} was told applied and never landed"


def _number(lists: dict[str, Any]) -> tuple[Any, ...]:
    return next(tuple(lists[field]) for field in LISTS if lists.get(field, UNSET) is not UNSET)


def left_over(editor: Editor) -> list[str]:
    """The tasks, and the session if it is not idle, that a run left behind in this event loop."""
    # The worker of a fleet lives in this event loop, too, and goes on with its jobs.
    prefix = "aiomutex" if isinstance(editor, MutexSession) else "aiomutex fleet run"
    left = [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith(prefix)]
    if isinstance(editor, MutexSession) and not idle(editor):
        left.append(repr(editor))
    return left


class Gone:
    """A limiter that grants what it is told to, and then has no more until ``resets_at``."""

    def __init__(self, permits: int, resets_at: datetime, error: type[MutexError] | None = None) -> None:
        self.permits = permits
        self.resets_at = resets_at
        self.given = 0
        self.refused = 0
        self.per_day = 1_000
        self.used = 0
        self.error = error

    async def acquire(self, priority: Priority = Priority.INTERACTIVE) -> float:
        from datetime import UTC, datetime  # noqa: PLC0415

        from aiomutex import DailyBudgetExhaustedError  # noqa: PLC0415

        await asyncio.sleep(0)
        if self.given >= self.permits and datetime.now(UTC) < self.resets_at:
            self.refused += 1
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
            per_window=100,
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


# ---------------------------------------------------------------------------------------------- other processes


class Process:
    """A Python process of our own, which prints one line of JSON when it is ready."""

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
        """The next line it prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.communicate()[1])
        return json.loads(line)

    def kill(self) -> int:
        """SIGKILL; whether it was still running is told by the code."""
        self.process.kill()
        return self.process.wait()


class EmulatorProcess(Process):
    """The emulator in a process of its own; what happened there is asked through a page."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(HERE / "emulator_process.py", json.dumps(settings))

    def __enter__(self) -> Self:
        super().__enter__()
        self.url: str = self.line()["url"]
        return self

    def ask(self, page: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/test/{page}", timeout=10) as answer:
            return json.load(answer)
