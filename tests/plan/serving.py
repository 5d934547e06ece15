"""Groups of an emulator for the commands of a test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiomutex.emulator import MutexEmulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest

__all__ = ["serve_groups"]


def serve_groups(count: int, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[MutexEmulator]:
    """Serve groups of three slots with an experiment each, to commands that run in ``folder``."""
    with MutexEmulator(groups=count, slots_per_group=3, limits=False) as emulator:
        monkeypatch.setenv("AIOMUTEX_BASE_URL", emulator.url)
        monkeypatch.setenv("AMPLITUDE_MANAGEMENT_API_KEY", "a-key-of-some-length")
        monkeypatch.chdir(folder)
        yield emulator
