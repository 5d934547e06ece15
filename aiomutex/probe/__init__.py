"""Find out how the live service behaves where its documentation is silent, and report it without private data.

``findings`` interprets the responses to ``requests``. The probe uses the public session only, and shares nothing with
the emulator except the knobs' names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiomutex._util.checks import describe
from aiomutex.errors import InvalidRequestError
from aiomutex.probe.findings import ProbeReport
from aiomutex.probe.requests import MAX_READS, MAX_WRITES, Prober, probe_reads, probe_writes

if TYPE_CHECKING:
    from aiomutex.session import MutexSession

__all__ = ["MAX_READS", "MAX_WRITES", "ProbeReport", "probe"]


async def probe(session: MutexSession, *, write_scratch: str | int | None = None) -> ProbeReport:
    """Find out which reading of each unknown applies, as far as a few requests can show.

    It sends at most 10 requests, all of them reads. It can determine more if the project has at least two groups, one
    of them archived. ``write_scratch`` is the ID of a project in which to create one group, write to it, and archive it
    at the end, even after an error. This takes at most 20 more requests. No other group is written to.

    The report has no names, keys, IDs or salts. Attach its ``to_json()`` to an issue, or start the emulator with it.

    Raises:
        InvalidRequestError: ``write_scratch`` is not a project ID. Nothing was sent.
        AuthenticationError, PermissionDeniedError: The service rejected the API key.
        OutcomeUnknownError: The scratch group may not be archived; ``key`` identifies it.
        MutexError: A request failed.

    Example:
        >>> report = await probe(session)
        >>> report.dialect["ids"], report.undetermined["slot_patch"]
        ('number', 'no read can show it; --write-scratch can')
    """
    is_text = isinstance(write_scratch, str) and write_scratch.strip()
    if not (write_scratch is None or is_text or (type(write_scratch) is int and write_scratch >= 0)):
        raise InvalidRequestError(
            f"write_scratch must be a project ID, an integer or a non-empty string, not {describe(write_scratch)}"
        )
    prober = Prober(session)
    await probe_reads(prober)
    if write_scratch is not None:
        prober.allowed = prober.sent + MAX_WRITES
        await probe_writes(prober, write_scratch)
    return prober.findings.report(requests=prober.sent, wrote=write_scratch is not None)
