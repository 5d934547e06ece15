"""Bulk edits on many machines: taskiq workers write, and one caller gets the outcomes. Needs the extra ``fleet``."""

try:
    from aiomutex.fleet.fleet import Fleet
except ModuleNotFoundError as missing:
    raise ImportError(
        f"aiomutex.fleet needs taskiq and taskiq-redis ({missing}): pip install 'aiomutex[fleet]'"
    ) from missing

__all__ = ["Fleet"]
