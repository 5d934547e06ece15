"""The pytest fixture ``mutex_emulator``, and ``MutexEmulator``, which also works without pytest.

pytest loads this module wherever the package is installed, so it imports the emulator only when a test needs it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiomutex.emulator import MutexEmulator

__all__ = ["MutexEmulator", "mutex_emulator"]


def __getattr__(name: str) -> Any:
    if name != "MutexEmulator":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from aiomutex.emulator import MutexEmulator  # noqa: PLC0415  # see the module's docstring

    globals()[name] = MutexEmulator  # the documentation shows only names that are there
    return MutexEmulator


with contextlib.suppress(ModuleNotFoundError):
    import pytest

    @pytest.fixture
    def mutex_emulator() -> Iterator[MutexEmulator]:
        """A new emulator for each test, without groups, which listens on ``mutex_emulator.url``.

        It runs in a thread, so a test can be a function or a coroutine in any event loop.
        """
        from aiomutex.emulator import MutexEmulator  # noqa: PLC0415  # see the module's docstring

        with MutexEmulator() as emulator:
            yield emulator
