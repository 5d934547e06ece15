"""Bulk edits over several machines: taskiq workers write, one caller gets the outcomes. Needs the extra ``fleet``."""

from aiomutex.fleet.fleet import Fleet

__all__ = ["Fleet"]
