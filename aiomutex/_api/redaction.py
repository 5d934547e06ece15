"""A text that never shows itself: what headers are made of where they hold the API key; and how to strike it out."""

from __future__ import annotations

import functools
import html
import re
from typing import Any, Final, NoReturn, Protocol
from urllib.parse import unquote

__all__ = ["Redact", "SecretStr", "redactor"]

_SHORT_KEY: Final = 8
_BACKSLASH: Final = re.compile(r"\\(?:u00([0-9A-Fa-f]{2})|(.))")
_ENTITY: Final = re.compile(r"&#?\w{1,8};")
_LONGEST_ESCAPE: Final = len("&#x2b;")


class SecretStr(str):
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


class Redact(Protocol):
    """Strikes the key out of a text: plain, and as it stands in a URL, in JSON, in HTML and in a repr."""

    def __call__(self, text: str, *, cut: bool = False) -> str:
        """The text without the key. Of one that was ``cut`` the end goes too, as far as a part of the key may reach."""
        ...


def redactor(api_key: str) -> Redact:
    """What strikes this key out of a text."""
    # Real keys are long; to strike a short one out would mangle ordinary words.
    return functools.partial(_without, SecretStr(str.__str__(api_key) if len(api_key) >= _SHORT_KEY else ""))


def _without(key: SecretStr, text: str, *, cut: bool = False) -> str:
    if not key or (len(text) < len(key) and not cut):
        return text
    text = text.replace(key, "***")
    # Which characters are escaped, and how, is up to each encoder. So the text is read, not the key written; and shown
    # as it reads where the key is in it.
    for read in (_without_backslashes, unquote, _without_entities):
        plain = read(text)
        if key in plain:
            text = plain.replace(key, "***")
    return text[: -_LONGEST_ESCAPE * len(key)] if cut else text


def _without_backslashes(text: str) -> str:
    """A text out of JSON or a repr."""
    return _BACKSLASH.sub(lambda found: chr(int(found[1], 16)) if found[1] else found[2], text)


def _without_entities(text: str) -> str:
    """A text out of HTML."""
    # One by one, as html.unescape fails at numbers of thousands of digits.
    return _ENTITY.sub(lambda found: html.unescape(found[0]), text)
