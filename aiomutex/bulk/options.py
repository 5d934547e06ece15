"""What a run of bulk edits is given: the edits, checked, and how to go about them."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from aiomutex._api import requests
from aiomutex.errors import (
    AuthenticationError,
    ConfigurationError,
    DailyBudgetExhaustedError,
    InvalidRequestError,
    LimiterUnavailableError,
)
from aiomutex.models import SlotEdit

if TYPE_CHECKING:
    from aiomutex._api.requests import Request

__all__ = ["FATAL", "Edits", "OnBudget", "Settings", "check_all", "request_of"]

Edits = Iterable[SlotEdit] | AsyncIterable[SlotEdit]
OnBudget = Literal["stop", "wait"]


# These concern the whole run, not one edit: to go on would fail every edit there is.
FATAL: Final = (AuthenticationError, ConfigurationError, DailyBudgetExhaustedError, LimiterUnavailableError)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How a run goes about it."""

    concurrency: int
    stop_after: int | None = None
    on_budget: OnBudget = "stop"
    reserve: int = 0

    def __post_init__(self) -> None:
        for field, least in (("concurrency", 1), ("stop_after", 1), ("reserve", 0)):
            value: object = getattr(self, field)
            if type(value) is int and value >= least:
                continue
            if value is not None or field != "stop_after":
                raise InvalidRequestError(f"{field} is {value!r}; it must be a whole number from {least}")
        if self.on_budget not in ("stop", "wait"):
            raise InvalidRequestError(f"on_budget is {self.on_budget!r}; it must be 'stop' or 'wait'")


def request_of(edit: SlotEdit) -> Request[None]:
    """The request an edit stands for.

    Raises:
        InvalidRequestError: It is no ``SlotEdit``, or breaks a rule.
    """
    if not isinstance(edit, SlotEdit):  # pyright: ignore[reportUnnecessaryIsInstance]  # users err
        raise InvalidRequestError(f"an edit is of kind {type(edit).__name__}; it must be a SlotEdit")
    return requests.edit_slot(edit.group_id, edit.slot_index, edit.experiments, edit.holdouts, edit.individuals)


def check_all(edits: Iterable[SlotEdit]) -> None:
    """Check each edit of a collection, so that a wrong one stops the run before it begins.

    Raises:
        InvalidRequestError: It names the first wrong edit.
    """
    for position, edit in enumerate(edits):
        try:
            request_of(edit)
        except InvalidRequestError as error:
            problem = str(error)
        else:
            continue
        raise InvalidRequestError(f"edits[{position}]: {problem}")
