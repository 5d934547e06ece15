"""The calls that only read: the listing from several sides, one group, and one group that is not there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from aiomutex._api import requests, responses
from aiomutex._api.requests import Request
from aiomutex.errors import InvalidRequestError, UnexpectedResponseError
from aiomutex.probe.findings import next_cursor_of, object_of, succeeded

if TYPE_CHECKING:
    from aiomutex._api.responses import Response
    from aiomutex.probe.findings import Findings
    from aiomutex.session import MutexSession

__all__ = ["MAX_READS", "Asker", "ask_reads"]

MAX_READS: Final = 10
_TRIES: Final = 3
_PAGE: Final = 1000
_FAR: Final = 900_000_000
"""An offset beyond all groups."""
_NOBODY: Final = "0"
"""An id that no group has."""


class Asker:
    """Sends single requests over a session's own transport, its limiter included, and shows whole answers.

    Args:
        session: An open session.
        findings: Where it notes what every answer tells.
        at_most: Requests it may send.
    """

    def __init__(self, session: MutexSession, findings: Findings, at_most: int) -> None:
        self.session = session
        self.sent = 0
        self._findings = findings
        self._at_most = at_most
        self._transport = session._transport  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # one HTTP stack
        self._options = session._options  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # as above

    async def ask(self, call: str, request: Request[Any]) -> Response:
        """Send ``request``, again only after a 429, and note under ``call`` what the answer tells."""
        for again in range(_TRIES, -1, -1):
            if self.sent >= self._at_most:
                raise InvalidRequestError(f"the probe has sent its {self._at_most} requests; it sends no more")
            self.sent += 1
            answer = await self._transport.attempt(
                request,
                priority=self._options.priority,
                attempt_timeout=self._options.attempt_timeout,
                ends_at=asyncio.get_running_loop().time() + self._options.deadline,
                deadline=self._options.deadline,
            )
            self._findings.answered(call, answer)
            if answer.status != 429 or not again:  # noqa: PLR2004  # too many requests
                return answer
        raise AssertionError("unreachable")


async def ask_reads(asker: Asker, findings: Findings) -> None:
    """Read what can be read."""
    request = _listing(1)
    answer = await asker.ask("list", request)
    if not succeeded(answer):
        raise responses.error_from_response(answer)
    first = findings.page(answer)
    if object_of(answer) is None:
        raise UnexpectedResponseError(
            "an answer that is no page of groups", status=answer.status, method=request.method, path=request.path
        )
    answer = await asker.ask("list 1000", _listing(_PAGE))
    groups = findings.page(answer)
    if succeeded(answer):
        findings.note("groups", "none" if not groups else "one" if len(groups) == 1 else "several")
    if next_cursor_of(object_of(answer) or {}) is not None:
        findings.page(await asker.ask("list beyond the end", _listing(_PAGE, _FAR)))
    elif 0 < len(groups) < _PAGE:
        await _ask_for_a_full_last_page(asker, findings, len(groups))
    answer = await asker.ask("list 1001", _listing(_PAGE + 1))
    findings.page(answer)
    refused = answer.status in (400, 422)
    findings.tell("over_limit", "capped" if succeeded(answer) else "refused" if refused else None)
    await _ask_for_one(asker, findings, first)
    await asker.ask("an absent group", Request("GET", f"{requests.ROOT}/{_NOBODY}", bytes))


async def _ask_for_a_full_last_page(asker: Asker, findings: Findings, groups: int) -> None:
    """Whether a last page that is exactly full says that it is the last.

    Hidden groups at the very end of the list look the same as a list that does not say, and mean the same to clients.
    """
    answer = await asker.ask("list exactly all", _listing(groups))
    full = len(findings.page(answer)) == groups
    following = next_cursor_of(object_of(answer) or {})
    if not succeeded(answer) or not full:
        return
    if following is None:
        findings.tell("end_of_list", "known")
    elif isinstance(following, int) or following.isdecimal():
        rest = await asker.ask("list after all", _listing(groups, int(following)))
        if succeeded(rest) and not findings.page(rest) and next_cursor_of(object_of(rest) or {}) is None:
            findings.tell("end_of_list", "probed")


async def _ask_for_one(asker: Asker, findings: Findings, groups: list[dict[str, Any]]) -> None:
    if not groups:
        return
    try:
        request = requests.get_group(groups[0].get("id", ""))
    except InvalidRequestError:
        # An id that this client would not send.
        return
    answer = await asker.ask("one group", request)
    if succeeded(answer):
        findings.group(object_of(answer) or {})


def _listing(limit: int, cursor: int | None = None) -> Request[bytes]:
    # Not the client's own request, which sends no limit above 1000.
    query = f"limit={limit}" if cursor is None else f"limit={limit}&cursor={cursor}"
    return Request("GET", f"{requests.ROOT}?{query}", bytes)
