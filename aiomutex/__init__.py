"""Async client for the mutex-group endpoints of Amplitude Experiment's Management API.

An independent project, not affiliated with Amplitude. Most of the public API can be imported from here. The rest is in
``aiomutex.bulk``, ``aiomutex.emulator``, ``aiomutex.events``, ``aiomutex.fleet``, ``aiomutex.limits.machine``,
``aiomutex.limits.redis``, ``aiomutex.plan``, ``aiomutex.probe``, ``aiomutex.testing`` and ``aiomutex.traffic``.

Names and submodules are imported when they are first used: ``aiomutex --help`` and the pytest plugin, which every test
run loads wherever this package is installed, must not import an HTTP client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from aiomutex import errors
from aiomutex.errors import *  # noqa: F403  # cheap to import, and every public name of it is public here

__version__ = "0.2.0"

if TYPE_CHECKING:
    # The same names as in _HOMES, and submodules, in forms that type checkers read as a re-export.
    from aiomutex import bulk as bulk
    from aiomutex import events as events
    from aiomutex import plan as plan
    from aiomutex import traffic as traffic
    from aiomutex._api.responses import Response as Response
    from aiomutex.bulk.report import BulkReport as BulkReport
    from aiomutex.bulk.report import SlotOutcome as SlotOutcome
    from aiomutex.bulk.stream import OutcomeStream as OutcomeStream
    from aiomutex.limits import *  # noqa: F403  # only public names, as in _HOMES
    from aiomutex.models import *  # noqa: F403  # as above
    from aiomutex.paging import GroupPager as GroupPager
    from aiomutex.retry import RetryPolicy as RetryPolicy
    from aiomutex.session import MutexSession as MutexSession

_HOMES = {
    "_api.responses": "Response",
    "bulk.report": "BulkReport SlotOutcome",
    "bulk.stream": "OutcomeStream",
    "limits": "LimiterState LocalRateLimiter Priority RateLimiter",
    "models": "UNSET CreatedGroup GroupPage MutexGroup NewGroup NewSlot Slot SlotChange SlotEdit UnsetType",
    "paging": "GroupPager",
    "retry": "RetryPolicy",
    "session": "MutexSession",
}
_HOME_OF = {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names.split()}

# Built from the table, so that no name is written a third time.
__all__ = sorted({*errors.__all__, *_HOME_OF})  # noqa: PLE0605  # pyright: ignore[reportUnsupportedDunderAll]  # a list


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(importlib.import_module(_HOME_OF[name]), name)
        globals()[name] = value
        return value
    submodule = f"{__name__}.{name}"
    if not name.startswith("_"):
        try:
            return importlib.import_module(submodule)
        except ModuleNotFoundError as error:
            if error.name != submodule:
                raise  # the submodule is there; what it imports is missing
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
