"""A local emulator of the mutex-group endpoints, for tests and for trying things out.

It checks requests by its own rules, written from the service's documentation, and shares no code with the client, so
that a mistake in one cannot hide in the other.
"""

from aiomutex.emulator.app import RecordedRequest
from aiomutex.emulator.controls import Snapshot
from aiomutex.emulator.dialect import Dialect
from aiomutex.emulator.faults import Fault, FaultKind, Latency
from aiomutex.emulator.limits import Clock, Limits
from aiomutex.emulator.server import MutexEmulator, serve
from aiomutex.emulator.service import Commit
from aiomutex.emulator.state import Group, GroupStore, Slot

__all__ = [
    "Clock", "Commit", "Dialect", "Fault", "FaultKind", "Group", "GroupStore", "Latency", "Limits", "MutexEmulator",
    "RecordedRequest", "Slot", "Snapshot", "serve",
]  # fmt: skip
