"""Groups from the arguments of a test, in JSON files, and in the SQLite file that keeps them.

They are checked less strictly than requests: percentages captured from the service sometimes do not add up to 100.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing, suppress
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

import msgspec

from aiomutex.emulator.state import Group, GroupStore, Slot

if TYPE_CHECKING:
    from pathlib import Path

SlotSeed = int | Mapping[str, Any] | Slot
GroupSeed = Mapping[str, Any] | Group

# With a write-ahead log a commit survives the end of the process without waiting for the disk.
_TABLES = """
PRAGMA journal_mode=WAL;
PRAGMA synchronous=NORMAL;
CREATE TABLE IF NOT EXISTS generated (count INTEGER NOT NULL, slots INTEGER NOT NULL, removed TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS groups (id TEXT PRIMARY KEY, body TEXT NOT NULL);
"""


class _Generated(msgspec.Struct):
    count: int = 0
    slots: int = 3
    removed: list[str] = []


def _fields_of(seed: Mapping[str, Any], kind: type[msgspec.Struct], where: str) -> dict[str, Any]:
    """Return the fields of a seed under the service's names, without those that are None."""
    given = {re.sub("_([a-z])", lambda match: match[1].upper(), name): seed[name] for name in seed}
    if unknown := given.keys() - set(kind.__struct_encode_fields__):
        raise ValueError(f"{where} has an unknown field {min(unknown)!r}")
    return {name: value for name, value in given.items() if value is not None}


def _slot_of(seed: SlotSeed, place: int) -> Slot | dict[str, Any]:
    if isinstance(seed, Slot):
        return seed
    if not isinstance(seed, int | Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  # files hold anything
        raise ValueError(f"slots[{place}] must be a percentage or a mapping, not {seed!r}")  # noqa: TRY004  # of a file
    fields = {"percentage": seed} if isinstance(seed, int) else _fields_of(seed, Slot, f"slots[{place}]")
    return {"index": place + 1, "percentage": 0, **fields}


def group_of(seed: GroupSeed, *, next_id: str) -> Group:
    """Make a group from a mapping with the service's field names or Python's; absent fields get a default."""
    if isinstance(seed, Group):
        return seed
    group_id = next_id if seed.get("id") is None else str(seed["id"])
    fields: dict[str, Any] = {"name": f"Group {group_id}", "key": f"group-{group_id}", "projectId": 1}
    fields |= {"bucketingSalt": f"salt-{group_id}", "slots": (50, 50)}
    fields |= {**_fields_of(seed, Group, f"group {group_id}"), "id": group_id}
    fields["slots"] = [_slot_of(slot, place) for place, slot in enumerate(fields["slots"])]
    return msgspec.convert({**fields, "projectId": str(fields["projectId"])}, Group, strict=False)


def seeded_store(groups: int | Iterable[GroupSeed], slots_per_group: int) -> GroupStore:
    """Make a store of that many generated groups, or of these groups."""
    if isinstance(groups, int):
        return GroupStore(groups, slots=slots_per_group)
    store = GroupStore()
    for seed in groups:
        group = group_of(seed, next_id=store.next_id())
        store[group.id] = group
    return store


def document_of(store: GroupStore) -> dict[str, Any]:
    """Return all groups as data for JSON, which ``store_of`` reads."""
    recipe = _Generated(store.generated, store.generated_slots, sorted(store.removed, key=int))
    return {"generated": recipe, "groups": store.materialized()}


def store_of_json(data: bytes) -> GroupStore:
    """Read groups from JSON; see ``store_of``."""
    try:
        return store_of(msgspec.json.decode(data))
    except RecursionError:
        raise ValueError("the groups must not be nested so deeply") from None


def store_of(document: object) -> GroupStore:
    """Read groups from a dump, a page of the real service (``{"mutexes": [...]}``) or a list of groups."""
    fields = cast("dict[str, Any]", document) if isinstance(document, dict) else {"groups": document}
    recipe = msgspec.convert(fields.get("generated") or {}, _Generated)
    seeds = fields.get("groups", fields.get("mutexes"))
    if not isinstance(seeds, list):
        valid = 'a list, or an object with such a list as "groups" or "mutexes"'
        raise ValueError(f"the groups must be {valid}")  # noqa: TRY004  # of a file
    store = GroupStore(recipe.count, slots=recipe.slots)
    for group_id in recipe.removed:
        if group_id not in store:
            raise ValueError(f"generated.removed must be IDs of generated groups, not {group_id!r}")
        del store[group_id]
    for place, seed in enumerate(cast("list[object]", seeds)):
        if not isinstance(seed, dict):
            raise ValueError(f"groups[{place}] must be an object, not {seed!r}")  # noqa: TRY004  # of a file
        try:
            group = group_of(cast("dict[str, Any]", seed), next_id=store.next_id())
        except (TypeError, ValueError) as error:
            raise ValueError(f"groups[{place}] is not a group: {error}") from None
        store[group.id] = group
    return store


def open_private(path: str | os.PathLike[str], flags: int) -> int:
    """Open a file with user IDs: a new one has mode 0600, and a symbolic link is an error."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)


def read_state(path: Path) -> GroupStore | None:
    """Read the groups from a state file; None if it does not exist or is empty."""
    if path.is_symlink():
        raise ValueError(f"{path} cannot be used as a state file: it is a symbolic link")
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(path)) as file:
            tables = {name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not tables:
                return None
            if others := tables - {"generated", "groups"}:
                raise ValueError(f"it has a table {min(others)}")  # noqa: TRY301  # reported like SQLite's own errors
            for count, slots, removed in file.execute("SELECT count, slots, removed FROM generated"):
                generated = {"count": count, "slots": slots, "removed": msgspec.json.decode(removed)}
                groups = [msgspec.json.decode(body) for (body,) in file.execute("SELECT body FROM groups")]
                return store_of({"generated": generated, "groups": groups})
            return None
    except (sqlite3.Error, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a state file: {error}") from None


class StateFile:
    """An open state file; a ``ValueError`` if it cannot be written or is locked by another process."""

    def __init__(self, path: Path) -> None:
        # check_same_thread: a test may add groups in its own thread while the emulator writes in another.
        self._lock = Lock()
        # SQLite would create it with mode 0644. An existing file stays as it is.
        with suppress(OSError):
            open(path, "xb", opener=open_private).close()
        try:
            if path.is_symlink():
                raise sqlite3.OperationalError("it is a symbolic link")
            with ExitStack() as stack:
                self._file = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
                self.close = self._file.close
                stack.callback(self.close)
                self._file.executescript(_TABLES)
                self._file.execute("BEGIN IMMEDIATE")
                stack.pop_all()
        except sqlite3.Error as error:
            raise ValueError(f"{path} cannot be used as a state file: {error}") from None

    def save(self, group: Group) -> None:
        """Write one group."""
        with self._lock:
            self._file.execute("INSERT OR REPLACE INTO groups VALUES (?, ?)", (group.id, _text(group)))
            self._commit()

    def save_all(self, store: GroupStore) -> None:
        """Replace the content of the file by all groups of ``store``."""
        recipe = (store.generated, store.generated_slots, _text(sorted(store.removed, key=int)))
        rows = ((group.id, _text(group)) for group in store.materialized())
        with self._lock:
            self._file.execute("DELETE FROM groups")
            self._file.execute("DELETE FROM generated")
            self._file.execute("INSERT INTO generated VALUES (?, ?, ?)", recipe)
            self._file.executemany("INSERT INTO groups VALUES (?, ?)", rows)
            self._commit()

    def _commit(self) -> None:
        # An open transaction keeps other emulators from writing to the file: each would undo the other's changes.
        self._file.execute("COMMIT")
        self._file.execute("BEGIN IMMEDIATE")


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()
