"""Bulk edits: many slots at once, an outcome for each edit, a journal to resume from, and ``undo``.

Start a run with ``MutexSession.edit_slots`` or ``MutexSession.stream_slot_edits``. The guide is this folder's README.
"""

from aiomutex.bulk.preview import Preview, preview
from aiomutex.bulk.undo import undo

__all__ = ["Preview", "preview", "undo"]
