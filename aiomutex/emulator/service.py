"""The five endpoints: route a request, check it, change a group, and make the response.

``app`` handles keys, limits and faults. Every change is recorded as a commit, to prove that nothing was done twice.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from copy import deepcopy
from dataclasses import KW_ONLY, dataclass, field
from itertools import count
from math import inf
from random import Random
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

import msgspec

from aiomutex.emulator.limits import Clock
from aiomutex.emulator.responses import Response
from aiomutex.emulator.validation import Rejection, group_edit, new_group, page, slot_edit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aiomutex.emulator.dialect import Dialect
    from aiomutex.emulator.responses import Encoder
    from aiomutex.emulator.state import Group, GroupStore, Slot

COLLECTION = "/api/1/mutexes"
RACE_WINDOW = 0.005
"""Seconds in which an edit of a group does not see another one if the dialect's ``slot_writes`` is ``racy``."""
_PATH = re.compile(f"{COLLECTION}(?:/([^/]*)(?:/slots/([^/]*))?)?")


@dataclass(frozen=True, slots=True)
class Commit:
    """A change that was made, with the method and the decoded body of its request."""

    seq: int
    """The number of the change, counted from 1."""
    method: str
    group_id: str
    slot_index: int | None
    """None if the group itself was created or edited."""
    body: Any


@dataclass(eq=False, repr=False)
class Service:
    """Respond to requests to the endpoints; see ``MutexEmulator`` for the arguments."""

    store: GroupStore
    encoder: Encoder
    _: KW_ONLY
    random: Random = field(default_factory=lambda: Random(0))
    taken_keys: frozenset[str] = frozenset()
    local_experiments: frozenset[int] = frozenset()
    clock: Clock = field(default_factory=Clock)
    on_commit: Callable[[Group], None] = lambda _: None
    base_url: str = ""

    def __post_init__(self) -> None:
        self.changes: deque[tuple[float, str, Group | None]] = deque()  # when, and the group as it was before
        self.commits: deque[Commit] = deque(maxlen=100_000)
        self.writes: Counter[tuple[str, int | None]] = Counter()
        self._last_read: dict[str, tuple[float, list[Slot]]] = {}
        self._numbers = count(1)

    @property
    def dialect(self) -> Dialect:
        """The dialect in use."""
        return self.encoder.dialect

    def respond(self, method: str, target: str, body: bytes, content_type: str) -> Response:
        """Respond to one request."""
        try:
            return self._route(method, target, body, content_type)
        except Rejection as rejection:
            return self.encoder.error(*rejection.args)

    def _route(self, method: str, target: str, body: bytes, content_type: str) -> Response:
        path, _, query = target.partition("?")
        if (match := _PATH.fullmatch(path)) is None:
            raise Rejection(404, f"{path} does not exist")
        group_id, slot_index = match.groups()
        allowed = "GET, POST" if group_id is None else "GET, PATCH" if slot_index is None else "PATCH"
        if method not in allowed.split(", "):
            raise Rejection(405, f"the method must be {allowed}, not {method}", {"Allow": allowed})
        if method == "POST":
            return self._create(_json(body, content_type))
        if group_id is None:
            return self._list(query)
        group_id = unquote(group_id)
        before = self._changed_since(self.dialect.read_lag) if method == "GET" else {}
        if (found := before.get(group_id, self.store.peek(group_id))) is None:
            raise Rejection(404, f"group {group_id} does not exist")
        if method == "GET":
            return Response(200, self._encode(found))
        group = self.store[group_id]
        if slot_index is None:
            return self._edit(group, _json(body, content_type))
        index = _index(group, unquote(slot_index), first=1 if self.dialect.slot_numbers == "from 1" else 0)
        return self._edit_slot(group, index, _json(body, content_type))

    def _list(self, query: str) -> Response:
        dialect = self.dialect
        parameters = dict(parse_qsl(query, keep_blank_values=True))
        if dialect.unknown_fields == "rejected" and (unknown := parameters.keys() - {"limit", "cursor"}):
            raise Rejection(400, f"query parameter {min(unknown)} is unknown; parameters are limit, cursor")
        offset, limit = page(parameters, dialect)
        hidden = dialect.archived == "hidden"
        uncounted = hidden and dialect.offsets == "listed"
        before = self._changed_since(dialect.list_lag)

        def is_listed(group: Group) -> bool:
            seen = before.get(group.id, group)
            return seen is not None and not (uncounted and seen.deleted)

        ids, total = self.store.page(offset, limit, is_listed if uncounted or before else None)
        seen = [before.get(group_id, self.store.peek(group_id)) for group_id in ids]
        shown = (group for group in seen if group is not None and not (hidden and getattr(group, "deleted", False)))
        end = offset + limit
        more = end <= total and bool(ids) if dialect.end_of_list == "probed" else end < total
        return Response(200, self.encoder.page(map(self._encode, shown), end if more else None))

    def _encode(self, found: Group | int) -> bytes:
        encoder = self.encoder
        return encoder.generated(found, self.store.generated_slots) if isinstance(found, int) else encoder.group(found)

    def _create(self, body: Any) -> Response:
        group = new_group(body, self.dialect)
        key = group.key = group.key or self._free_key(group.name)
        project = group.project_id if self.dialect.key_scope == "project" else None
        if (owner := self.store.id_of_key(key, project)) is not None:
            raise Rejection(self.dialect.taken_key, f'key must be unique; group {owner} has the key "{key}"')
        if key in self.taken_keys:
            everywhere = "flags, experiments, holdouts and groups"
            raise Rejection(self.dialect.taken_key, f'key must be unique across {everywhere}; "{key}" is in use')
        for slot in group.slots:
            self._check_modes(group.evaluation_mode, slot.experiments, f"slots[{slot.index - 1}].experiments")
        group.id = self.store.next_id()
        group.bucketing_salt = group.bucketing_salt or f"{self.random.getrandbits(32):08x}"
        self._remember(group.id, None)
        self.store[group.id] = group
        self._commit("POST", group, None, body)
        return self.encoder.created(group, self.base_url)

    def _edit(self, group: Group, body: Any) -> Response:
        changes = group_edit(body, self.dialect)
        self._remember(group.id, group)
        for name, value in changes.items():
            setattr(group, name, value)
        self._commit("PATCH", group, None, body)
        return self.encoder.changed(group)

    def _edit_slot(self, group: Group, index: int, body: Any) -> Response:
        lists = slot_edit(body, self.dialect)
        self._check_modes(group.evaluation_mode, lists.get("experiments", ()), "experiments")
        self._remember(group.id, group)
        if self.dialect.slot_writes == "racy":
            read_at, slots = self._last_read.get(group.id, (-inf, group.slots))
            if monotonic() - read_at < RACE_WINDOW:
                group.slots[:] = slots
            self._last_read[group.id] = monotonic(), deepcopy(group.slots)
        slot = next(slot for slot in group.slots if slot.index == index)
        for name, members in lists.items():
            merge = self.dialect.slot_patch == "merge"
            setattr(slot, name, list(dict.fromkeys([*getattr(slot, name), *members])) if merge else members)
        if self.dialect.cohorts_on_edit == "dropped":
            slot.cohorts = []
        self._commit("PATCH", group, index, body)
        return self.encoder.changed(group)

    def _check_modes(self, mode: str, experiments: Iterable[int], where: str) -> None:
        local = self.local_experiments.intersection(experiments)
        if local and mode != "local":
            reason = f'it is evaluated locally, and the group\'s evaluationMode is "{mode}"'
            raise Rejection(400, f"{where} must not have {min(local)}: {reason}")

    def _remember(self, group_id: str, before: Group | None) -> None:
        """Keep a group that is about to change for the longest lag; None if it is about to be created."""
        now, lag = self.clock.now(), max(self.dialect.read_lag, self.dialect.list_lag)
        while self.changes and self.changes[0][0] <= now - lag:
            self.changes.popleft()
        if lag:
            self.changes.append((now, group_id, deepcopy(before)))

    def _changed_since(self, lag: float) -> dict[str, Group | None]:
        """Return the groups that changed in the last ``lag`` seconds, as they were before; None was not there."""
        start = self.clock.now() - lag
        # The latest first, so that the earliest one of a group is kept.
        return {group_id: before for at, group_id, before in reversed(self.changes) if at > start}

    def _commit(self, method: str, group: Group, slot_index: int | None, body: Any) -> None:
        self.commits.append(Commit(next(self._numbers), method, group.id, slot_index, body))
        self.writes[group.id, slot_index] += 1
        self.on_commit(group)

    def _free_key(self, name: str) -> str:
        stem = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "group"
        key = stem
        while self.store.id_of_key(key) is not None or key in self.taken_keys:
            key = f"{stem}-{self.random.getrandbits(24):06x}"
        return key


def _index(group: Group, text: str, *, first: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):  # noqa: PLR2004  # far above any index
        raise Rejection(400, f"slotIndex must be an integer counted from {first}, not {text!r}")
    index = int(text) + 1 - first
    if index not in [slot.index for slot in group.slots]:
        last = len(group.slots) - 1 + first
        raise Rejection(404, f"slot {text} does not exist; group {group.id} has slots {first} to {last}")
    return index


def _json(body: bytes, content_type: str) -> Any:
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise Rejection(400, f"Content-Type must be application/json, not {content_type!r}")
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Rejection(400, f"the body is not JSON: {error}") from None
