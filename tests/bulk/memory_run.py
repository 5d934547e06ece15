"""Stream a number of edits and print the peak memory of this process."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import tempfile
from pathlib import Path

from bulk_support import session_for

from aiomutex import SlotEdit


async def main(url: str, count: int, flags: list[str]) -> None:
    edits = (SlotEdit(1 + n % 2_000, 1 + n // 2_000 % 3, experiments=[n, n + 1, n + 2]) for n in range(count))
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "run.db" if "journal" in flags else None
        async with session_for(url) as session:
            seen = 0
            async with session.stream_slot_edits(edits, journal=journal, verify="verify" in flags) as outcomes:
                async for outcome in outcomes:
                    assert outcome.status == "applied", outcome
                    seen += 1
        assert seen == count
    print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}), flush=True)


asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
