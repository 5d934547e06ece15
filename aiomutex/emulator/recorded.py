"""What was asked of the emulator and how it answered, for tests to assert on.

Headers and query are taken apart only when somebody looks, and the API key is never shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["RecordedRequest"]


class RecordedRequest:
    """One request as it arrived.

    Attributes:
        at: When it arrived, by the emulator's clock, in seconds since 1970.
        method: The HTTP method.
        target: Path and query as they were sent.
        body: The body as it was sent.
        status: The status answered; None while there is no answer, or if it was lost on purpose.
    """

    __slots__ = ("_headers", "at", "body", "method", "status", "target")

    def __init__(self, at: float, method: str, target: str, headers: Mapping[str, str]) -> None:
        self.at = at
        self.method = method
        self.target = target
        self.body = b""
        self.status: int | None = None
        self._headers = headers

    def __repr__(self) -> str:
        return f"<RecordedRequest {self.method} {self.target} · {self.status or 'no answer'}>"

    @property
    def path(self) -> str:
        """The path, without the query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        """The query's parameters."""
        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))

    @property
    def headers(self) -> dict[str, str]:
        """The headers, names in lower case, with the value of Authorization replaced by its scheme and stars."""
        shown = {name.lower(): value for name, value in self._headers.items()}
        if "authorization" in shown:
            scheme, _, key = shown["authorization"].partition(" ")
            shown["authorization"] = f"{scheme} ***" if key else "***"
        return shown

    @property
    def json(self) -> Any:
        """The body, decoded; None if there is none.

        Raises:
            ValueError: The body is not JSON.
        """
        return msgspec.json.decode(self.body) if self.body else None
