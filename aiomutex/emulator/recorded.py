"""The requests that the emulator received, for tests to assert on; the API key is never shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["RecordedRequest"]


class RecordedRequest:
    """A request as it arrived, and the status of its response.

    Attributes:
        at: When it arrived, in seconds since 1970 by the emulator's clock.
        method: The HTTP method.
        target: The path and query, as sent.
        body: The body, as sent.
        status: The status of the response; None if it was not sent (yet).
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
        return f"<RecordedRequest {self.method} {self.target} · {self.status or 'no response'}>"

    @property
    def path(self) -> str:
        """The path without the query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        """The parameters of the query."""
        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))

    @property
    def headers(self) -> dict[str, str]:
        """The headers, with names in lower case and without the API key."""
        headers = {name.lower(): value for name, value in self._headers.items()}
        if "authorization" in headers:
            scheme, _, key = headers["authorization"].partition(" ")
            headers["authorization"] = f"{scheme} ***" if key else "***"
        return headers

    @property
    def json(self) -> Any:
        """The decoded body; None if it is empty.

        Raises:
            ValueError: The body is not JSON.
        """
        return msgspec.json.decode(self.body) if self.body else None
