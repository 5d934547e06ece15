"""Checks of arguments, and how a message shows a value: ``retry must be a RetryPolicy, not 'often' (str)``."""

from __future__ import annotations

from typing import Final

from aiomutex.errors import ConfigurationError, InvalidRequestError, MutexError

_MAX_SHOWN: Final = 60


def describe(value: object) -> str:
    """The value's repr, cut at 60 characters, with its type."""
    try:
        text = repr(value)
    except ValueError:
        text = "an integer too long to show"  # Python refuses to print integers of more than 4,300 digits
    if len(text) > _MAX_SHOWN:
        text = text[:_MAX_SHOWN] + "…"
    return text if value is None else f"{text} ({type(value).__name__})"


def type_name(value: object) -> str:
    """The name of the value's type, for values that a message must not show; of a class, that it is one."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def check_seconds(field: str, value: object, *, least: float = 0.0, most: int = 10**7) -> None:
    """Raise ``ConfigurationError`` unless ``value`` is a number up to ``most``, so neither infinity nor NaN."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        bounds = "above 0 and at most" if least else "from 0 to"
        raise ConfigurationError(f"{field} must be a number of seconds {bounds} {most:,}, not {describe(value)}")


def check_integer(
    field: str, value: object, *, least: int, most: int | None = None, error: type[MutexError] = InvalidRequestError
) -> int:
    """Return ``value`` if it is an integer from ``least`` to ``most``, and no bool; otherwise raise ``error``."""
    if type(value) is int and value >= least and (most is None or value <= most):
        return value
    end = "" if most is None else f" to {most:,}"
    raise error(f"{field} must be an integer from {least}{end}, not {describe(value)}")
