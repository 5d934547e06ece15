from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import command_line
import pytest
from support import no_lag

from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _reads_do_not_lag(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    """Runs do not wait ten seconds before they read an unexpected slot again."""
    no_lag(monkeypatch)


@pytest.fixture(autouse=True)
def _sigint_is_not_ignored() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    """A shell that starts the tests in the background lets them ignore SIGINT, and so the commands that they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


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
