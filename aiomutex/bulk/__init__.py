"""Bulk edits: fan-out with an outcome for each edit, a journal to resume from, and the way back.

``MutexSession.edit_slots`` and ``MutexSession.stream_slot_edits`` are the way in; ``undo`` is the way back.
"""

from aiomutex.bulk.undo import undo

__all__ = ["undo"]
