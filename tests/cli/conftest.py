from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import command_line
import pytest

from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _reads_do_not_lag(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    """An undo does not wait ten seconds before it reads an unexpected slot again."""
    monkeypatch.setattr(import_module("aiomutex.bulk.undo"), "MAX_LAG", 0.0)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MutexEmulator]:
    """Start an emulator with five groups, set it in the environment, and work in an empty directory."""
    with MutexEmulator(groups=5, limits=False) as emulator:
        monkeypatch.setenv("AIOMUTEX_BASE_URL", emulator.url)
        monkeypatch.setenv("AMPLITUDE_MANAGEMENT_API_KEY", "a-key-of-some-length")
        monkeypatch.chdir(tmp_path)
        yield emulator


@pytest.fixture
def aiomutex() -> command_line.Aiomutex:
    """Run the command line in this process."""
    return command_line.run
