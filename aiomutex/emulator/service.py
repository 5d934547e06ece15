"""The five endpoints over the state: route, check, change, answer.

It sees decoded requests and gives back answers; sockets, keys, limits and faults are the application's business. Every
change it makes is written into a record of commits, by which tests can prove that nothing was done twice.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from copy import deepcopy
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, unquote

import msgspec

from aiomutex.emulator.responses import Response, Wire
from aiomutex.emulator.state import Group, GroupStore, Slot
from aiomutex.emulator.validation import Refusal, SlotEdit, group_edit, new_group, page, slot_edit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aiomutex.emulator.dialect import Dialect

__all__ = ["COLLECTION", "Commit", "Service"]

COLLECTION = "/api/1/mutexes"
RECORDED_COMMITS = 100_000

_T = TypeVar("_T", int, str)


@dataclass(frozen=True, slots=True)
class Commit:
    """One change that was made: its number from 1, the request that made it, and what it changed.

    ``slot_index`` is None for a change of the group itself.
    """

    seq: int
    method: str
    group_id: str
    slot_index: int | None
    body: Any


class Service:
    """Answers requests to the endpoints.

    Args:
        store: The groups.
        dialect: How to read what the documentation leaves open.
        seed: What generated keys and salts are drawn from.
        taken_keys: Keys in use by flags, experiments and holdouts.
        local_experiments: Experiments with local evaluation, which only groups with local evaluation may hold.
        on_commit: Called with each group after it was changed.
    """

    def __init__(
        self,
        store: GroupStore,
        dialect: Dialect,
        *,
        seed: int = 0,
        taken_keys: Iterable[str] = (),
        local_experiments: Iterable[int] = (),
        on_commit: Callable[[Group], None] | None = None,
    ) -> None:
        self.store = store
        self.wire = Wire(dialect)
        self.base_url = ""
        self.taken_keys = set(taken_keys)
        self.local_experiments = set(local_experiments)
        self.commits: deque[Commit] = deque(maxlen=RECORDED_COMMITS)
        self.writes: Counter[tuple[str, int | None]] = Counter()
        self.on_commit = on_commit
        self._random = Random(seed)
        self._committed = 0

    @property
    def dialect(self) -> Dialect:
        """The dialect in use."""
        return self.wire.dialect

    def speak(self, dialect: Dialect) -> None:
        """Answer in ``dialect`` from now on."""
        self.wire = Wire(dialect)

    def answer(self, method: str, target: str, body: bytes, content_type: str) -> Response | Callable[[], Response]:
        """Answer one request.

        Args:
            method: The HTTP method.
            target: The path and query as they came.
            body: The body as it came.
            content_type: The body's content type.

        Returns:
            The answer; or, where the dialect lets writes race, what makes the change later and answers then.
        """
        try:
            return self._route(method, target, body, content_type)
        except Refusal as refusal:
            return self.wire.error(refusal.status, refusal.message)

    def _route(self, method: str, target: str, body: bytes, content_type: str) -> Response | Callable[[], Response]:
        path, _, query = target.partition("?")
        if path == COLLECTION:
            if method == "GET":
                return self._list(query)
            if method == "POST":
                return self._create(_json(body, content_type))
            return self._not_allowed(method, "GET, POST")
        if not path.startswith(COLLECTION + "/"):
            raise Refusal(404, f"{path} is unknown")
        parts = path[len(COLLECTION) + 1 :].split("/")
        group_id = unquote(parts[0])
        if len(parts) == 1:
            if method == "GET":
                return self._details(group_id)
            if method == "PATCH":
                return self._edit(self._group(group_id), _json(body, content_type))
            return self._not_allowed(method, "GET, PATCH")
        if len(parts) != 3 or parts[1] != "slots":  # noqa: PLR2004 - {id}/slots/{index}
            raise Refusal(404, f"{path} is unknown")
        if method != "PATCH":
            return self._not_allowed(method, "PATCH")
        group = self._group(group_id)
        slot = _slot(group, unquote(parts[2]))
        return self._edit_slot(group, slot, _json(body, content_type))

    def _list(self, query: str) -> Response:
        dialect = self.dialect
        given = dict(parse_qsl(query, keep_blank_values=True))
        if dialect.unknown_fields == "rejected" and (unknown := given.keys() - {"limit", "cursor"}):
            raise Refusal(400, f"query parameter {min(unknown)} is unknown; known are limit, cursor")
        offset, limit = page(given, dialect)
        hidden = dialect.archived == "hidden"
        by_all = dialect.offsets == "all"
        ids, total = self.store.page(offset, limit, _is_live if hidden and not by_all else None)
        groups: list[bytes] = []
        for group_id in ids:
            found = self.store.look(group_id)
            if isinstance(found, int):
                groups.append(self.wire.generated(found, self.store.generated_slots))
            elif found is not None and not (hidden and found.deleted):
                groups.append(self.wire.group(found))
        end = offset + limit
        more = end <= total and bool(ids) if dialect.end_of_list == "probed" else end < total
        return Response(200, self.wire.page(groups, end if more else None))

    def _details(self, group_id: str) -> Response:
        found = self.store.look(group_id)
        if found is None:
            raise _no_group(group_id)
        if isinstance(found, int):
            return Response(200, self.wire.generated(found, self.store.generated_slots))
        return Response(200, self.wire.group(found))

    def _create(self, body: Any) -> Response:
        new = new_group(body, self.dialect)
        key = new.key or self._free_key(new.name)
        if (owner := self.store.id_of_key(key)) is not None:
            raise Refusal(self.dialect.taken_key, f'key is "{key}", which group {owner} has; keys must be unique')
        if key in self.taken_keys:
            raise Refusal(
                self.dialect.taken_key,
                f'key is "{key}", which is in use; keys must be unique across flags, experiments, holdouts and groups',
            )
        for place, slot in enumerate(new.slots):
            self._check_modes(new.evaluation_mode, slot.experiments, f"slots[{place}].experiments")
        group = Group(
            id=self.store.free_id(),
            project_id=new.project_id,
            name=new.name,
            key=key,
            description=new.description,
            evaluation_mode=new.evaluation_mode,
            bucketing_key=new.bucketing_key,
            bucketing_salt=new.bucketing_salt or f"{self._random.getrandbits(32):08x}",
            slots=[
                Slot(
                    index=index,
                    percentage=slot.percentage,
                    experiments=slot.experiments,
                    holdouts=slot.holdouts,
                    individuals=slot.individuals,
                )
                for index, slot in enumerate(new.slots, start=1)
            ],
        )
        self.store[group.id] = group
        self._commit("POST", group, None, body)
        return self.wire.created(group, self.base_url)

    def _edit(self, group: Group, body: Any) -> Response:
        edit = group_edit(body, self.dialect)
        for name, value in edit.changes.items():
            setattr(group, name, value)
        if edit.archive is not None:
            group.deleted = edit.archive
        self._commit("PATCH", group, None, body)
        return self.wire.changed(group)

    def _edit_slot(self, group: Group, slot: Slot, body: Any) -> Response | Callable[[], Response]:
        edit = slot_edit(body, self.dialect)
        self._check_modes(group.evaluation_mode, edit.experiments or (), "experiments")
        if self.dialect.slot_writes == "atomic":
            self._apply(slot, edit)
            self._commit("PATCH", group, slot.index, body)
            return self.wire.changed(group)
        slots_as_read = deepcopy(group.slots)

        def write_back() -> Response:
            group.slots[:] = slots_as_read
            self._apply(next(copy for copy in slots_as_read if copy.index == slot.index), edit)
            self._commit("PATCH", group, slot.index, body)
            return self.wire.changed(group)

        return write_back

    def _apply(self, slot: Slot, edit: SlotEdit) -> None:
        replace = self.dialect.slot_patch == "replace"
        if edit.experiments is not None:
            slot.experiments = edit.experiments if replace else _merged(slot.experiments, edit.experiments)
        if edit.holdouts is not None:
            slot.holdouts = edit.holdouts if replace else _merged(slot.holdouts, edit.holdouts)
        if edit.individuals is not None:
            slot.individuals = edit.individuals if replace else _merged(slot.individuals, edit.individuals)
        if self.dialect.cohorts_on_edit == "dropped":
            slot.cohorts = []

    def _check_modes(self, mode: str, experiments: Iterable[int], where: str) -> None:
        if mode != "local" and self.local_experiments:
            for experiment in experiments:
                if experiment in self.local_experiments:
                    raise Refusal(
                        400,
                        f"{where} has {experiment}, which is evaluated locally; it can only join a group whose"
                        f' evaluationMode is "local", and this one\'s is "{mode}"',
                    )

    def _commit(self, method: str, group: Group, slot_index: int | None, body: Any) -> None:
        self._committed += 1
        self.commits.append(Commit(self._committed, method, group.id, slot_index, body))
        self.writes[group.id, slot_index] += 1
        if self.on_commit is not None:
            self.on_commit(group)

    def _group(self, group_id: str) -> Group:
        if group_id not in self.store:
            raise _no_group(group_id)
        return self.store[group_id]

    def _free_key(self, name: str) -> str:
        stem = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "group"
        key = stem
        while self.store.id_of_key(key) is not None or key in self.taken_keys:
            key = f"{stem}-{self._random.getrandbits(24):06x}"
        return key

    def _not_allowed(self, method: str, allowed: str) -> Response:
        answer = self.wire.error(405, f"{method} is not allowed here; allowed are {allowed}")
        answer.headers["Allow"] = allowed
        return answer


def _is_live(group: Group) -> bool:
    return not group.deleted


def _merged(old: list[_T], new: list[_T]) -> list[_T]:
    return list(dict.fromkeys(old + new))


def _no_group(group_id: str) -> Refusal:
    return Refusal(404, f"group {group_id} does not exist")


def _slot(group: Group, text: str) -> Slot:
    if not (text.isascii() and text.isdigit() and len(text) < 10):  # noqa: PLR2004 - far above any slot
        raise Refusal(400, f"slotIndex is {text!r}; it must be a number, and slots count from 1")
    for slot in group.slots:
        if slot.index == int(text):
            return slot
    raise Refusal(404, f"slot {text} does not exist; group {group.id} has {len(group.slots)} slots, counted from 1")


def _json(body: bytes, content_type: str) -> Any:
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise Refusal(400, f"Content-Type is {content_type!r}; it must be application/json")
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(400, f"the body is not JSON: {error}") from None
