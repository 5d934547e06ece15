"""Task groups whose failure is an ordinary exception: callers wait for the error of their call, not for a group."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["unwrapped"]


@contextlib.contextmanager
def unwrapped() -> Generator[None]:
    """Raise the first exception of a task group inside as itself."""
    try:
        yield
    except BaseExceptionGroup as caught:
        group: BaseExceptionGroup[BaseException] = caught
        first = _first(group)
    else:
        return
    raise first


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
