"""A service in memory, and a disk that keeps what was synced, for runs whose power fails at any of their events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from bulk_support import InlineExecutor

from aiomutex import LocalRateLimiter, MutexGroup, Slot, SlotEdit
from aiomutex._http.call import CallResult
from aiomutex.bulk import undo
from aiomutex.bulk.engine import Engine
from aiomutex.bulk.journal_file import JournalFile
from aiomutex.bulk.options import Settings
from aiomutex.bulk.stream import OutcomeStream, collect_report

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Coroutine, Generator, Sequence

    import pytest

    from aiomutex import BulkReport, SlotOutcome
    from aiomutex._api.requests import Request

_MEMORY: Final = Path("/dev/shm")  # only a place for folders of our own
LISTS: Final = ("experiments", "holdouts", "individuals")
Contents = dict[tuple[str, int], dict[str, list[Any]]]


class Service:
    """Groups of three slots. Each request is an event before it has an effect and one after it."""

    def __init__(self, groups: int, event: Callable[[str], None] = lambda _: None) -> None:
        self.contents: Contents = {
            (str(group), slot): {"experiments": [slot], "holdouts": [group], "individuals": [f"user-{group}-{slot}"]}
            for group in range(1, groups + 1)
            for slot in (1, 2, 3)
        }
        self.writes: list[tuple[str, int, dict[str, list[Any]]]] = []
        self.is_alive = True
        """Whether the client that sends is alive."""
        self.unfinished: list[tuple[str, int, dict[str, list[Any]]]] = []
        """Writes on their way when the client's power failed."""
        self._event = event

    async def send(self, request: Request[Any]) -> CallResult[Any]:
        """Stands in for a session that sends a request of a run."""
        path = request.path.split("/")
        await self._pass("before a request")
        if request.method == "GET":
            group = self._group(path[4])
            await self._pass("after a read")
            return CallResult(group, 1)
        await self._write(path[4], int(path[6]), json.loads(request.body or b"{}"))
        return CallResult(None, 1)

    async def _write(self, group: str, slot: int, lists: dict[str, list[Any]]) -> None:
        write = group, slot, lists
        self.unfinished.append(write)
        await self._pass("before a write")
        self.unfinished.remove(write)
        self.apply(write)
        await self._pass("after a write")

    def apply(self, write: tuple[str, int, dict[str, list[Any]]]) -> None:
        self.writes.append(write)
        self.contents[write[0], write[1]] |= write[2]

    def _group(self, group: str) -> MutexGroup:
        held: Any = {slot: self.contents[group, slot] for slot in (1, 2, 3)}
        return MutexGroup(id=group, slots=[Slot(index=slot, percentage=33, **held[slot]) for slot in held])

    def stream_slot_edits(
        self,
        edits: Any,
        *,
        concurrency: int | None = 3,
        journal: Any = None,
        verify: bool = False,
        on_outcome: Callable[[SlotOutcome], object] | None = None,
    ) -> OutcomeStream:
        """Run edits as a session does."""
        settings = Settings(concurrency=concurrency or 3, verify=verify)
        limiter = LocalRateLimiter()
        engine = Engine(self.send, limiter, settings, lambda: None, journal=journal, attempt_timeout=0.0)
        return OutcomeStream(engine, edits, on_outcome)

    async def _pass(self, event: str) -> None:
        if self.is_alive:
            self._event(event)
        if not self.is_alive:
            await asyncio.Event().wait()
        await asyncio.sleep(0)


async def edit_slots(
    service: Service,
    journal: Path,
    edits: Sequence[SlotEdit],
    *,
    verify: bool = False,
    report: Callable[[SlotOutcome], object] | None = None,
) -> BulkReport:
    """Run edits as a session does."""
    return await collect_report(service.stream_slot_edits(edits, journal=journal, verify=verify, on_outcome=report))


@contextlib.contextmanager
def memory_folder(otherwise: Path) -> Generator[Path]:
    """A folder in memory if the system has one, as a sync takes no time there."""
    if not _MEMORY.is_dir():
        yield otherwise
        return
    with tempfile.TemporaryDirectory(dir=_MEMORY) as name:
        yield Path(name)


class Machine:
    """A client with a disk that keeps, of a journal, what was synced.

    Args:
        folder: Where the files are.
        patch: Makes commits synchronous, and watches them.
        groups: The number of groups.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, groups: int) -> None:
        self.service = Service(groups, self._event)
        self.events: list[str] = []
        self.cut_at = -1
        self.reported: set[int] = set()
        """The positions of the edits that runs reported as applied before the power failed."""
        self._folder = folder
        self._lives = 0
        self._work: asyncio.Task[Any] | None = None
        self._synced: dict[str, bytes] = {}
        inside: Any = JournalFile
        commit = inside._commit

        def watched(file: JournalFile) -> None:
            if not self.service.is_alive:
                return  # the process is gone
            self._event("before a commit")
            if self.service.is_alive:
                commit(file)
                self._synced = {path.name: path.read_bytes() for path in self.path.parent.iterdir()}
                self._event("after a commit")

        patch.setattr(JournalFile, "_commit", watched)
        patch.setattr("aiomutex.bulk.journal_file.ThreadPoolExecutor", InlineExecutor)
        patch.setattr("aiomutex.bulk.journal_file._COLLECT", 0)
        patch.setattr("aiomutex.bulk.late_writes._MIN_WAIT", 0.0)
        self._begin_life()

    @property
    def path(self) -> Path:
        """The journal."""
        return self._folder / f"life{self._lives}" / "run.db"

    async def run(self, edits: Sequence[SlotEdit], *, verify: bool) -> BulkReport | None:
        return await self._until_cut(edit_slots(self.service, self.path, edits, verify=verify, report=self._report))

    def _report(self, outcome: SlotOutcome) -> None:
        if self.service.is_alive and outcome.status == "applied":
            self.reported.add(outcome.position)

    async def undo(self) -> BulkReport | None:
        return await self._until_cut(undo(cast("Any", self.service), self.path, concurrency=3))

    async def _until_cut(self, work: Coroutine[Any, Any, BulkReport]) -> BulkReport | None:
        self._work = task = asyncio.create_task(work)
        await asyncio.wait([task])
        if self.service.is_alive:
            return task.result()
        assert task.cancelled() or task.exception() is not None
        return None

    def restart(self, rng: random.Random) -> None:
        """Start the machine again. Writes that were on their way arrived or not."""
        for write in self.service.unfinished:
            if rng.random() < 0.5:
                self.service.apply(write)
        self.service.unfinished.clear()
        self.service.is_alive = True
        self._begin_life()

    def _begin_life(self) -> None:

        self._lives += 1
        self.path.parent.mkdir(parents=True)
        for name, data in self._synced.items():
            (self.path.parent / name).write_bytes(data)

    def _event(self, event: str) -> None:
        if len(self.events) == self.cut_at and self._work is not None:
            self.service.is_alive = False
            self._work.cancel()
        self.events.append(event)
