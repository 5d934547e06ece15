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
    except BaseExceptionGroup as group:
        first = _first(group)
    else:
        return
    raise first


def _first(error: BaseException) -> BaseException:
    inner: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    return _first(inner[0]) if inner else error
