"""Bulk edits against the emulator, beside a loop written by hand. Runs the subjects of ``bulk``."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.bulk import PACED, SUBJECTS, measure
from benchmarks.harness import Result, Row, Size, Table

__all__ = ["run"]

BY_HAND = "by hand"


def run(size: Size) -> Result:
    """Measure each subject in a new process, in alternating rounds. Each checks that all its edits were applied."""
    count = size.of(6_000, 600, 60)
    names = [name for name in SUBJECTS if not name.startswith("paced") or size is Size.FULL]
    rows = {name: Row(name, []) for name in names}
    command = [sys.executable, "-m", "benchmarks.bulk", "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            url = server.stdout.readline().strip()
            for _ in range(size.of(5, 1, 1)):
                for name, row in rows.items():
                    edits = min(count, PACED) if name.startswith("paced") else count
                    figures = measure(name, url, edits)
                    row.values.append(figures["cpu"] / edits * 1e6)
                    row.note = f"{edits / figures['wall']:,.0f} edits/s, {figures['memory']:.1f} MiB above the start"
        finally:
            server.kill()
    floor = "by hand: a semaphore and a gather, without limiter, retry, types or report"
    title = f"CPU per edit of a bulk run of {count:,} edits against the emulator"
    return Result([Table(title, "µs", list(rows.values()), baseline=BY_HAND, floor=floor)])
