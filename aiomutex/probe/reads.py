"""The requests that only read: several pages of the listing, one group, and one group that does not exist."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from aiomutex.errors import APIError, InvalidRequestError, UnexpectedResponseError
from aiomutex.models import UNSET
from aiomutex.probe.findings import Findings, next_cursor_of, object_of, succeeded
from aiomutex.retry import RetryPolicy

if TYPE_CHECKING:
    from aiomutex.probe.findings import ResponseOrError
    from aiomutex.session import MutexSession

MAX_READS: Final = 10
ROOT: Final = "/api/1/mutexes"
_MAX_ATTEMPTS: Final = 4
_PAGE_SIZE: Final = 1000
_OFFSET_BEYOND_THE_END: Final = 900_000_000


class Prober:
    """Sends at most ``allowed`` single requests through a session, its limiter included, and adds to ``findings``."""

    def __init__(self, session: MutexSession) -> None:
        self.session = session
        self.findings = Findings()
        self.allowed = MAX_READS
        self.sent = 0
        # The probe counts its requests and looks at each response, so it repeats them itself.
        self._single = session.with_options(retry=RetryPolicy(max_attempts=1))

    async def send(self, call: str, method: str, path: str, json: object = UNSET) -> ResponseOrError:
        """Send a request, again only after a 429, and add what the response shows under the name ``call``."""
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            if self.sent >= self.allowed:
                raise InvalidRequestError(f"the probe has sent its maximum of {self.allowed} requests")
            self.sent += 1
            response: ResponseOrError
            try:
                response = await self._single.request(method, path, json=json)
            except APIError as error:
                response = error
            self.findings.add_response(call, response)
            if response.status != 429 or attempt == _MAX_ATTEMPTS:  # noqa: PLR2004  # too many requests
                return response
        raise AssertionError("unreachable")


async def probe_reads(prober: Prober) -> None:
    """Determine what reading requests can show."""
    findings = prober.findings
    response = await prober.send("list", "GET", listing_path(1))
    if isinstance(response, APIError):
        raise response
    first = findings.add_page(response)
    if not object_of(response):
        raise UnexpectedResponseError(
            "the body is not a page of groups", status=response.status, method="GET", path=listing_path(1)
        )
    response = await prober.send("list 1000", "GET", listing_path(_PAGE_SIZE))
    groups = findings.add_page(response)
    if succeeded(response):
        findings.notes["groups"] = "none" if not groups else "one" if len(groups) == 1 else "several"
    if next_cursor_of(response) is not None:
        path = listing_path(_PAGE_SIZE, _OFFSET_BEYOND_THE_END)
        findings.add_page(await prober.send("list beyond the end", "GET", path))
    elif 0 < len(groups) < _PAGE_SIZE:
        await _probe_full_last_page(prober, len(groups))
    response = await prober.send("list 1001", "GET", listing_path(_PAGE_SIZE + 1))
    findings.add_page(response)
    findings.add_verdict("over_limit", "capped", response)
    # Only an ID that is the same in a path needs no escaping, and cannot lead to another endpoint.
    group_id = str(first[0].get("id", "")) if first else ""
    if re.fullmatch("[A-Za-z0-9_-]{1,100}", group_id):
        response = await prober.send("one group", "GET", f"{ROOT}/{group_id}")
        if succeeded(response):
            findings.add_group(object_of(response))
    await prober.send("an absent group", "GET", f"{ROOT}/0")


async def _probe_full_last_page(prober: Prober, groups: int) -> None:
    # Hidden groups at the end look like a full page that does not say it is the last, and mean the same to clients.
    response = await prober.send("list exactly all", "GET", listing_path(groups))
    if len(prober.findings.add_page(response)) != groups:
        return
    cursor = next_cursor_of(response)
    if cursor is None:
        prober.findings.add("end_of_list", "known")
    elif isinstance(cursor, int) or cursor.isdecimal():
        rest = await prober.send("list after all", "GET", listing_path(groups, int(cursor)))
        if succeeded(rest) and not prober.findings.add_page(rest) and next_cursor_of(rest) is None:
            prober.findings.add("end_of_list", "probed")


def listing_path(limit: int, cursor: str | int | None = None) -> str:
    """Path and query of a page of the listing."""
    return f"{ROOT}?limit={limit}" if cursor is None else f"{ROOT}?limit={limit}&cursor={cursor}"
