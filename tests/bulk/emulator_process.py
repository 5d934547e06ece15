"""An emulator in a separate process, with pages that show tests what happened."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from aiohttp import web

from aiomutex.emulator import MutexEmulator, serve


def page(make: Any) -> Any:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.json_response(make())

    return answer


async def main() -> None:
    settings: dict[str, Any] = json.loads(sys.argv[1])
    emulator = MutexEmulator(**settings)
    emulator.pages["/test/count"] = page(lambda: sum(emulator.writes.values()))
    emulator.pages["/test/commits"] = page(
        lambda: [[commit.group_id, commit.slot_index, commit.body] for commit in emulator.commits]
    )
    emulator.pages["/test/writes"] = page(
        lambda: [[each.at, each.path, each.json] for each in emulator.requests if each.method == "PATCH"]
    )
    emulator.pages["/test/slots"] = page(
        lambda: {
            f"{group.id}/{slot.index}": [slot.experiments, slot.holdouts, slot.individuals]
            for group in emulator.groups.values()
            for slot in group.slots
        }
    )
    emulator.pages["/test/limits"] = page(
        lambda: [emulator.busiest_second(), emulator.limits.accepted, emulator.limits.rejected]
    )
    await serve(emulator, on_ready=lambda emulator: print(json.dumps({"url": emulator.url}), flush=True))


asyncio.run(main())
