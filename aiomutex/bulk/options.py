"""The input of a bulk run: edits, how to check them, and the run's settings."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from aiomutex._api import requests
from aiomutex._util.checks import check_integer, describe
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

FATAL: Final = (AuthenticationError, ConfigurationError, DailyBudgetExhaustedError, LimiterUnavailableError)
"""Errors that concern the whole run. Without a stop, every remaining edit would fail with them."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a run.

    Raises:
        InvalidRequestError: A setting breaks a rule.
    """

    concurrency: int
    stop_after: int | None = None
    on_budget: OnBudget = "stop"
    reserve: int = 0

    def __post_init__(self) -> None:
        check_integer("concurrency", self.concurrency, least=1)
        if self.stop_after is not None:
            check_integer("stop_after", self.stop_after, least=1)
        check_integer("reserve", self.reserve, least=0)
        if self.on_budget not in ("stop", "wait"):
            raise InvalidRequestError(f"on_budget must be 'stop' or 'wait', not {describe(self.on_budget)}")


def request_of(edit: SlotEdit) -> Request[None]:
    """The request that makes an edit.

    Raises:
        InvalidRequestError: It is not a ``SlotEdit``, or breaks a rule.
    """
    if not isinstance(edit, SlotEdit):  # pyright: ignore[reportUnnecessaryIsInstance]  # users err
        raise InvalidRequestError(f"an edit must be a SlotEdit, not {describe(edit)}")
    return requests.edit_slot(edit.group_id, edit.slot_index, edit.experiments, edit.holdouts, edit.individuals)


def check_all(edits: Iterable[SlotEdit]) -> None:
    """Check each edit of a collection, so that an invalid one stops the run before it begins.

    Raises:
        InvalidRequestError: An edit is invalid. The message names the first one.
    """
    for position, edit in enumerate(edits):
        try:
            request_of(edit)
        except InvalidRequestError as error:
            problem = str(error)
        else:
            continue
        raise InvalidRequestError(f"edits[{position}]: {problem}")
