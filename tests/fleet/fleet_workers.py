"""The module of the workers: ``taskiq worker fleet_workers:broker``. As a program, it is one worker or one caller."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys

from support import until
from taskiq.api import run_receiver_task

from aiomutex import SlotEdit
from aiomutex.fleet import Fleet

CLAIM_TIMEOUT = float(os.environ.get("FLEET_CLAIM_TIMEOUT", "1.5"))
BATCH = int(os.environ.get("FLEET_BATCH", "20"))

fleet = Fleet(os.environ["FLEET_REDIS"], name="project-1", claim_timeout=CLAIM_TIMEOUT, batch_size=BATCH, max_jobs=12)
broker = fleet.broker


async def work() -> None:
    task = asyncio.create_task(run_receiver_task(broker, run_startup=True))
    await until(lambda: hasattr(broker.state, "keeping"))
    print(json.dumps("ready"), flush=True)
    await task


async def call(first: int, count: int, groups: int) -> None:
    """Write ``count`` numbers from ``first``, one by one, to the slots of the groups in turn."""
    edits = [SlotEdit(1 + n % groups, 1 + n // groups % 3, experiments=[first + n]) for n in range(count)]
    async with fleet:
        print(json.dumps("ready"), flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)  # until the test lets it go
        report = await fleet.edit_slots(edits, verify=True, journal=os.environ.get("FLEET_JOURNAL"))
    outcomes = {first + outcome.position: outcome.status for outcome in report.outcomes}
    print(json.dumps({"outcomes": outcomes, "report": str(report)}), flush=True)


if __name__ == "__main__":
    asyncio.run(call(*map(int, sys.argv[2:])) if sys.argv[1] == "call" else work())
