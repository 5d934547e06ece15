"""A model of the service: groups, their slots, and the record of everything that was committed.

It shares no code with the client or the emulator, and keeps every version of a slot, so that a check can ask what the
service held at any moment.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .scenario import Lists

__all__ = ["COLLEAGUE", "Commit", "ModelService", "Version", "holds"]

COLLEAGUE: Final = "colleague"
_LISTS: Final = ("experiments", "holdouts", "individuals")
_PATH: Final = "/api/1/mutexes"

Place = tuple[int, int]
"""A group and a slot."""


def holds(content: Lists, lists: Lists) -> bool:
    """Whether a slot's content includes these lists, in any order."""
    return all(
        name in content and sorted(map(str, content[name])) == sorted(map(str, items)) for name, items in lists.items()
    )


@dataclass(frozen=True)
class Commit:
    """One write that the service made."""

    at: float
    author: str
    """The call that sent it, or ``COLLEAGUE``."""
    request: int
    """The number of the request in the whole run; 0 for a colleague's."""
    place: Place
    lists: Lists


@dataclass(frozen=True)
class Version:
    """What a slot held from a moment on."""

    since: float
    content: Lists
    commit: Commit | None = None


@dataclass
class Group:
    """A group as the service keeps it."""

    id: int
    key: str
    name: str
    created_at: float
    author: str
    slots: dict[int, list[Version]]
    percentages: list[int]
    archived_at: float = math.inf
    archived_by: str = ""

    @property
    def is_archived(self) -> bool:
        """Whether it is archived by now."""
        return self.archived_at < math.inf

    def shown(self, at: float) -> dict[str, Any]:
        """The group as it was at a moment."""
        slots: list[dict[str, Any]] = []
        for index, versions in self.slots.items():
            content = next(version.content for version in reversed(versions) if version.since <= at)
            share = self.percentages[index - 1]
            slots.append({"index": index, "name": f"SLOT {index}", "percentage": share, "cohorts": [], **content})
        deleted = {"deleted": True} if self.archived_at <= at else {}
        return {"id": self.id, "key": self.key, "name": self.name, "projectId": 1, "slots": slots, **deleted}


@dataclass
class ModelService:
    """The service. ``clock`` is the event loop's."""

    clock: Callable[[], float]
    groups: dict[int, Group] = field(default_factory=dict[int, Group])
    commits: list[Commit] = field(default_factory=list[Commit])

    def seed(self, groups: int, slots: int) -> None:
        """Make the groups that exist from the start."""
        for group in range(1, groups + 1):
            self._add(f"group-{group}", COLLEAGUE, -math.inf, [[100 * group + slot] for slot in range(1, slots + 1)])

    def _add(self, key: str, author: str, at: float, members: list[list[int]]) -> Group:
        group = Group(
            id=len(self.groups) + 1,
            key=key,
            name=key,
            created_at=at,
            author=author,
            slots={
                index: [Version(-math.inf, {"experiments": items, "holdouts": [], "individuals": []})]
                for index, items in enumerate(members, start=1)
            },
            percentages=[100 // len(members)] * len(members),
        )
        self.groups[group.id] = group
        return group

    def create(
        self, key: str, name: str, author: str, members: list[list[int]], percentages: list[int]
    ) -> Group | None:
        """Make a group, unless its key is taken."""
        if any(group.key == key for group in self.groups.values()):
            return None
        group = self._add(key, author, self.clock(), members)
        group.name, group.percentages = name, percentages
        return group

    def write(self, place: Place, lists: Lists, author: str, request: int = 0) -> None:
        """Replace lists of a slot."""
        versions = self.groups[place[0]].slots[place[1]]
        commit = Commit(self.clock(), author, request, place, lists)
        self.commits.append(commit)
        versions.append(Version(commit.at, versions[-1].content | lists, commit))

    def versions(self, place: Place, since: float = -math.inf, until: float = math.inf) -> Iterator[Version]:
        """The versions of a slot that were held at some moment from ``since`` to ``until``."""
        versions = self.groups[place[0]].slots[place[1]] if self.has(place) else []
        for version, following in zip_longest(versions, versions[1:]):
            if version.since <= until and (following is None or following.since >= since):
                yield version

    def has(self, place: Place) -> bool:
        """Whether there is such a slot."""
        return place[0] in self.groups and place[1] in self.groups[place[0]].slots

    def content(self, place: Place) -> Lists:
        """What a slot holds now."""
        return self.groups[place[0]].slots[place[1]][-1].content if self.has(place) else {}

    def process(
        self, method: str, path: str, body: bytes, author: str, request: int, lag: float
    ) -> tuple[int, dict[str, Any] | None]:
        """Process one request and return its status and the body of its response."""
        path, _, query = path.partition("?")
        parts = path.removeprefix(_PATH).strip("/").split("/") if path != _PATH else []
        seen = self.clock() - lag
        if method == "POST":
            return self._create(json.loads(body), author)
        if not parts:
            return 200, self._page(dict(pair.split("=") for pair in query.split("&")), seen)
        group = self.groups.get(int(parts[0]))
        if group is None or (method == "GET" and group.created_at > seen):
            return 404, {"message": "no such group"}
        if method == "GET":
            return 200, group.shown(seen)
        if len(parts) == 3 and int(parts[2]) not in group.slots:
            return 404, {"message": "no such slot"}
        if len(parts) == 3:
            self.write((group.id, int(parts[2])), json.loads(body), author, request)
        elif json.loads(body).get("archive") is True and not group.is_archived:
            group.archived_at, group.archived_by = self.clock(), author
        return 200, None

    def _create(self, given: dict[str, Any], author: str) -> tuple[int, dict[str, Any]]:
        members = [slot.get("experiments", []) for slot in given["slots"]]
        percentages = [slot["percentage"] for slot in given["slots"]]
        group = self.create(given["key"], given["name"], author, members, percentages)
        if group is None:
            return 400, {"message": "key is taken"}
        return 200, {"id": str(group.id), "url": f"https://example.com/{group.id}"}

    def _page(self, query: dict[str, str], seen: float) -> dict[str, Any]:
        start, limit = int(query.get("cursor", 0)), int(query["limit"])
        groups = [group.shown(seen) for group in self.groups.values() if group.created_at <= seen]
        page = groups[start : start + limit]
        return {"mutexes": page, "nextCursor": start + limit if start + limit < len(groups) else None}
