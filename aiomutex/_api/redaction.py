"""Keeping the API key out of sight: a string that hides its value, and the removal of the key from other strings."""

from __future__ import annotations

import functools
import html
import re
from typing import Any, Final, NoReturn
from urllib.parse import unquote

_SHORT_KEY: Final = 8
_BACKSLASH: Final = re.compile(r"\\(?:u00([0-9A-Fa-f]{2})|(.))")
_ENTITY: Final = re.compile(r"&#?\w{1,8};")
_UNESCAPE: Final = (
    functools.partial(_BACKSLASH.sub, lambda found: chr(int(found[1], 16)) if found[1] else found[2]),  # JSON or a repr
    unquote,
    # HTML, one entity after another, because html.unescape fails for numbers of thousands of digits.
    functools.partial(_ENTITY.sub, lambda found: html.unescape(found[0])),
)
_LONGEST_ESCAPE: Final = len("&#x2b;")


class SecretStr(str):
    """A ``str`` whose repr is ``'***'`` in logs, tracebacks and debuggers, and that cannot be pickled into a file."""

    __slots__ = ()

    @classmethod
    def of(cls, value: object) -> Any:
        """Wrap a string; return any other value as it is."""
        return cls(value) if isinstance(value, str) else value

    def __repr__(self) -> str:
        return "'***'"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("an API key cannot be pickled")


class Redactor:
    """Replaces the API key in a string by ``***``: as it is, and escaped for a URL, JSON, HTML or a repr."""

    def __init__(self, api_key: str) -> None:
        # Real keys are long. Removing a short one, such as a test's "key", would mangle ordinary words.
        self._key = SecretStr(str.__str__(api_key) if len(api_key) >= _SHORT_KEY else "")

    def __call__(self, text: str, *, cut: bool = False) -> str:
        """Return ``text`` without the key, and if it was ``cut`` without its end, which may hold part of the key."""
        key = self._key
        if not key or (len(text) < len(key) and not cut):
            return text
        text = text.replace(key, "***")
        # Encoders differ in which characters they escape, and how. So the text is unescaped before the search, instead
        # of searching it for each way to write the key.
        for unescape in _UNESCAPE:
            plain = unescape(text)
            if key in plain:
                text = plain.replace(key, "***")
        return text[: -_LONGEST_ESCAPE * len(key)] if cut else text
