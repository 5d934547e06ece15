"""The experiments' endpoints of the service, as pages of an emulator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiomutex.emulator import MutexEmulator

__all__ = ["LISTING", "ExperimentPages"]

LISTING = "/api/1/experiments"


class ExperimentPages:
    """Serve experiments one by one and as a listing, newest first, and record the paths of the requests."""

    def __init__(self, emulator: MutexEmulator, experiments: Mapping[int, Mapping[str, Any]]) -> None:
        described = {number: {"id": number} | dict(each) for number, each in experiments.items()}
        newest_first = [described[number] for number in sorted(described, reverse=True)]
        self.paths: list[str] = []
        self.page: Any = None
        """The listing's only page, if given."""
        self.statuses: list[int] = []
        """How the next requests for a page fail."""

        async def listing(request: web.BaseRequest) -> web.Response:
            self.paths.append(request.path)
            if self.statuses:
                return web.Response(status=self.statuses.pop(0))
            if self.page is not None:
                return web.json_response(self.page)
            start, limit = int(request.query.get("cursor", 0)), min(int(request.query.get("limit", 100)), 1000)
            page = newest_first[start : start + limit]
            end = start + len(page)
            return web.json_response({"experiments": page, "nextCursor": end if end < len(newest_first) else None})

        async def details(request: web.BaseRequest) -> web.Response:
            self.paths.append(request.path)
            return web.json_response(described[int(request.path.rpartition("/")[2])])

        emulator.pages[LISTING] = listing
        for number in described:
            emulator.pages[f"{LISTING}/{number}"] = details
