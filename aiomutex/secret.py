"""A text that never shows itself: what headers are made of where they hold the API key."""

from __future__ import annotations

from typing import Any, NoReturn

__all__ = ["Secret"]


class Secret(str):
    """A ``str`` to those that write it to a socket, ``'***'`` to those that print a repr: logs, tracebacks, debuggers.

    It refuses to be pickled or copied into a file by accident.
    """

    __slots__ = ()

    @classmethod
    def of(cls, value: object) -> Any:
        """The value itself, but a text as a secret."""
        return cls(value) if isinstance(value, str) else value

    def __repr__(self) -> str:
        return "'***'"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("an API key is not pickled")
