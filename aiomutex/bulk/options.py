"""The input of a bulk run: edits, how to check them, and the run's settings."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
from msgspec import UNSET

from aiomutex._api import requests
from aiomutex._util.checks import check_integer, describe
from aiomutex.bulk.slot_lists import check_change, check_expected
from aiomutex.errors import (
    AuthenticationError,
    ConfigurationError,
    DailyBudgetExhaustedError,
    InvalidRequestError,
    LimiterUnavailableError,
    SessionClosedError,
)
from aiomutex.models import SLOT_LISTS, SlotChange, SlotEdit

if TYPE_CHECKING:
    from aiomutex._api.requests import Request

AnyEdit = SlotEdit | SlotChange
Edits = Iterable[AnyEdit] | AsyncIterable[AnyEdit]
OnBudget = Literal["stop", "wait"]
Reads = Literal["auto", "groups"]

FATAL: Final = (
    AuthenticationError,
    ConfigurationError,
    DailyBudgetExhaustedError,
    LimiterUnavailableError,
    SessionClosedError,
)
"""Errors that concern the whole run. Without a stop, every remaining edit would fail with them."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a run; ``InvalidRequestError`` if one breaks a rule."""

    concurrency: int
    stop_after: int | None = None
    on_budget: OnBudget = "stop"
    reserve: int = 0
    verify: bool = False
    skip_unchanged: bool = False
    canary: bool = True
    reads: Reads = "auto"

    def __post_init__(self) -> None:
        check_integer("concurrency", self.concurrency, least=1)
        if self.stop_after is not None:
            check_integer("stop_after", self.stop_after, least=1)
        check_integer("reserve", self.reserve, least=0)
        if self.on_budget not in ("stop", "wait"):
            raise InvalidRequestError(f"on_budget must be 'stop' or 'wait', not {describe(self.on_budget)}")
        if self.reads not in ("auto", "groups"):
            raise InvalidRequestError(f"reads must be 'auto' or 'groups', not {describe(self.reads)}")


def freeze(edit: AnyEdit) -> AnyEdit:
    """A checked copy of an edit with lists of its own: the input may reuse the lists it passed for its next edit."""
    if isinstance(edit, SlotChange):
        return check_change(edit)
    if not isinstance(edit, SlotEdit):  # pyright: ignore[reportUnnecessaryIsInstance]  # users err
        raise InvalidRequestError(f"an edit must be a SlotEdit or a SlotChange, not {describe(edit)}")
    copies: dict[str, Any] = {}
    for name in SLOT_LISTS:
        items: Any = getattr(edit, name)
        copy: Any = frozenset if isinstance(items, AbstractSet) else list
        is_list = isinstance(items, Sequence) and not isinstance(items, str | bytes | bytearray | memoryview | tuple)
        if is_list or isinstance(items, AbstractSet):
            copies[name] = copy(items)
    if edit.expected is not UNSET:
        copies["expected"] = check_expected(edit.expected)
    return msgspec.structs.replace(edit, **copies)


def request_of(edit: AnyEdit) -> Request[None] | None:
    """The request that makes an edit; ``None`` for a change, whose request depends on what the slot holds."""
    if isinstance(edit, SlotChange):
        return None
    return requests.edit_slot(edit.group_id, edit.slot_index, edit.experiments, edit.holdouts, edit.individuals)


def check_all(edits: Iterable[AnyEdit]) -> Iterable[AnyEdit]:
    """Check each edit of a collection, so that an invalid one stops the run before it begins.

    Returns a frozen copy of a list or tuple, because changing either during the run would go unnoticed.
    """
    copies: list[AnyEdit] = []
    is_sequence = isinstance(edits, list | tuple)
    for position, edit in enumerate(edits):
        try:
            copy = freeze(edit)
            request_of(copy)
        except InvalidRequestError as error:
            raise InvalidRequestError(f"edits[{position}]: {error}") from None
        if is_sequence:
            copies.append(copy)
    return copies if is_sequence else edits
