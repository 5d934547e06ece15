"""Ask the real service what its documentation leaves open, and write it down without a trace of whose groups they are.

``findings`` holds what is known so far and how answers are read, ``asking`` the calls that only read, ``scratch`` those
that write to a group made for it. Nothing here is shared with the emulator but the names of its knobs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiomutex.probe.findings import Findings, ProbeReport
from aiomutex.probe.reads import MAX_READS, Asker, ask_reads
from aiomutex.probe.writes import MAX_WRITES, ask_writes

if TYPE_CHECKING:
    from aiomutex.session import MutexSession

__all__ = ["MAX_READS", "MAX_WRITES", "ProbeReport", "probe"]


async def probe(session: MutexSession, *, write_scratch: str | int | None = None) -> ProbeReport:
    """Learn which reading of each unknown holds, as far as a few calls can tell.

    At most 10 requests, which only read. The more the project holds (two groups, one of them archived), the more there
    is to learn.

    Args:
        session: An open session of the service in question.
        write_scratch: The id of a project in which to create one group, write to it, and archive it at the end, even
            after an error: at most 20 requests more. No other group is written to.

    Returns:
        A report without names, keys, ids or salts; ``to_json()`` makes what an issue can hold and the emulator can
        load as a dialect.

    Raises:
        AuthenticationError, PermissionDeniedError: The key is refused.
        OutcomeUnknownError: The scratch group may not be archived; ``key`` tells which one it is.
        MutexError: The service could not be asked.
    """
    findings = Findings()
    reader = Asker(session, findings, MAX_READS)
    await ask_reads(reader, findings)
    sent = reader.sent
    if write_scratch is not None:
        writer = Asker(session, findings, MAX_WRITES)
        await ask_writes(writer, findings, write_scratch)
        sent += writer.sent
    return findings.report(requests=sent, wrote=write_scratch is not None)
