"""A text that never shows itself: what headers are made of where they hold the API key; and how to strike it out."""

from __future__ import annotations

import functools
import html
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import quote

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Secret", "concealer"]

_SHORT_KEY: Final = 8


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


def concealer(api_key: str) -> Callable[[str], str]:
    """What strikes the key out of a text: plain, and as it stands in a URL, in JSON, in HTML and in a repr."""
    # Real keys are long; to strike a short one out would mangle ordinary words.
    if len(api_key) < _SHORT_KEY:
        return str
    key = str.__str__(api_key)
    in_json = msgspec.json.encode(key).decode()[1:-1]
    forms = (key, quote(key, safe=""), in_json, in_json.replace("/", "\\/"), html.escape(key), repr(key)[1:-1])
    return functools.partial(_without, tuple(Secret(form) for form in dict.fromkeys(forms)))


def _without(secrets: tuple[Secret, ...], text: str) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text
