"""Mistakes of users that type checkers must report. Each ignore comment stands for an error.

mypy reports unused ignore comments, so this file fails if one of the mistakes becomes acceptable.
"""

from __future__ import annotations

from aiomutex import MutexSession, NewGroup, NewSlot, SlotEdit


async def mistakes(session: MutexSession) -> None:
    await session.edit_slot("7", 1, experiments=["1"])  # type: ignore[list-item]
    await session.edit_slot("7", 1, individuals=[1])  # type: ignore[list-item]
    await session.edit_slot("7", 1, experiment=[1])  # type: ignore[call-arg]
    await session.edit_slot("7", 1, [1])  # type: ignore[call-arg]
    await session.edit_slot("7", 1, experiments=None)  # type: ignore[arg-type]
    await session.edit_group("7", name=None)  # type: ignore[arg-type]
    await session.get_group(["7"])  # type: ignore[arg-type]
    session.with_options(timeout=5)  # type: ignore[call-arg]
    NewGroup(project_id=1, name="n", slots=[NewSlot(percentage=100)], evaluation_mode="hybrid")  # type: ignore[arg-type]
    NewSlot(percentage=33.3)  # type: ignore[arg-type]
    SlotEdit("7", 1, [1])  # type: ignore[call-arg]
    MutexSession("key", timeout=5)  # type: ignore[call-arg]
