"""Keeping the API key out of sight: a string that hides its value, and the removal of the key from other strings."""

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
    """A ``str`` whose repr is ``'***'``, so that logs, tracebacks and debuggers do not show it.

    It cannot be pickled, so that it does not end up in a file by accident.
    """

    __slots__ = ()

    @classmethod
    def of(cls, value: object) -> Any:
        """Wrap a string; return any other value as it is."""
        return cls(value) if isinstance(value, str) else value

    def __repr__(self) -> str:
        return "'***'"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("an API key cannot be pickled")


class Redact(Protocol):
    """Replaces the key in a string by ``***``: as it is, and escaped for a URL, JSON, HTML or a repr."""

    def __call__(self, text: str, *, cut: bool = False) -> str:
        """Return ``text`` without the key.

        Args:
            text: May hold the key.
            cut: ``text`` was cut at its end, which may hold the beginning of the key; so the end is removed too.
        """
        ...


def redactor(api_key: str) -> Redact:
    """Return a function that removes this key from strings."""
    # Real keys are long. Removing a short one, such as a test's "key", would mangle ordinary words.
    return functools.partial(_redact, SecretStr(str.__str__(api_key) if len(api_key) >= _SHORT_KEY else ""))


def _redact(key: SecretStr, text: str, *, cut: bool = False) -> str:
    if not key or (len(text) < len(key) and not cut):
        return text
    text = text.replace(key, "***")
    # Encoders differ in which characters they escape, and how. So the text is unescaped before the search, instead
    # of searching it for each way to write the key.
    for unescape in (_unescape_backslashes, unquote, _unescape_entities):
        plain = unescape(text)
        if key in plain:
            text = plain.replace(key, "***")
    return text[: -_LONGEST_ESCAPE * len(key)] if cut else text


def _unescape_backslashes(text: str) -> str:
    """Undo the escapes of JSON or of a repr."""
    return _BACKSLASH.sub(lambda found: chr(int(found[1], 16)) if found[1] else found[2], text)


def _unescape_entities(text: str) -> str:
    """Undo the escapes of HTML."""
    # One by one, because html.unescape fails for numbers of thousands of digits.
    return _ENTITY.sub(lambda found: html.unescape(found[0]), text)
