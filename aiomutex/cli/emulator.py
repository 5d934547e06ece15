"""``aiomutex emulator``, ``demo``, which edits its groups, and ``probe``, which tests how the service behaves."""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import aiomutex
from aiomutex._util.files import open_private
from aiomutex._util.wording import counted
from aiomutex.cli.common import FilePath, call, confirm, echo, fail, is_given, json_option, print_json
from aiomutex.cli.run import Run

if TYPE_CHECKING:
    import aiomutex.probe
    from aiomutex.emulator import MutexEmulator


@click.command()
@click.option("--host", default="127.0.0.1", help="Address to listen on.")
@click.option("--allow-host", "allow_hosts", multiple=True, metavar="NAME", help="Accept this Host header; repeatable.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, help="0 picks a free port.")
@click.option("--groups", type=click.IntRange(0), default=0, help="Number of groups at the start.")
@click.option("--key", help="Accept only this API key; by default any.")
@click.option("--no-limits", is_flag=True, help="Never respond with 429.")
@click.option("--used-today", type=click.IntRange(0), default=0, help="Requests already counted for today.")
@click.option("--fault", "faults", multiple=True, metavar="KIND:PERCENT", help="Such as reset-after:2%; repeatable.")
@click.option("--latency", default="0ms", metavar="TIME", help="Response time, such as 80ms±40ms.")
@click.option("--seed", type=int, default=0, help="The same seed gives the same faults and delays.")
@click.option("--state", "state_file", type=FilePath(), help="Keep the groups in this SQLite file.")
@click.option("--dialect", type=FilePath(exists=True), help="JSON file with dialect settings.")
@click.option("--cors", "cors_origin", metavar="ORIGIN", help="Allow web pages of this origin; * for any.")
@click.option(
    "--tls-self-signed", "ca_file", is_flag=False, flag_value="emulator-ca.pem", metavar="[FILE]",
    help="Serve https with a certificate made now; FILE gets the CA that clients must trust.  [emulator-ca.pem]",
)  # fmt: skip
@click.option("--quiet", is_flag=True, help="Do not log requests.")
def emulator(no_limits: bool, dialect: str | None, ca_file: str | None, quiet: bool, **options: Any) -> None:
    """Run a local emulator of the service, with its rules and limits."""
    from aiomutex.emulator import Dialect, MutexEmulator, serve
    from aiomutex.emulator.listener import allowed_hosts, host_of

    logging.basicConfig(format="%(message)s", level=logging.WARNING if quiet else logging.INFO)
    try:
        options["dialect"] = Dialect.from_json(Path(dialect).read_bytes()) if dialect else None
        names = allowed_hosts(options["host"], options["allow_hosts"])
        if ca_file:
            import trustme

            authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate: Any = authority.issue_cert(*names, "127.0.0.1", "::1")
            certificate.configure_cert(context)  # its key is kept in memory only
            authority.cert_pem.write_to_path(ca_file)
            options["ssl_context"] = context
        instance = MutexEmulator(limits=not no_limits, log=not quiet, **options)
    except ModuleNotFoundError:
        fail("--tls-self-signed needs trustme: pip install 'aiomutex[tls]'")
    except ValueError as error:
        raise click.UsageError(str(error)) from None

    def announce(running: MutexEmulator) -> None:
        held = counted(len(running.groups), "group")
        click.echo(f"The emulator listens on {running.url} with {held} (Ctrl-C stops it)")
        if host_of(running.host) != "localhost":
            key = "the key" if options["key"] else "any key"
            opens = f"Other machines can reach it: read all groups without a key, and change them with {key}"
            click.echo(f"{opens}. URLs may name {', '.join(sorted(names))} (--allow-host adds names).", err=True)
        if ca_file:
            click.echo(f"Clients must trust its CA: export SSL_CERT_FILE={ca_file}", err=True)

    # A job that a script starts in the background ignores SIGINT at first.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda _, __: signal.raise_signal(signal.SIGINT))
    try:
        with suppress(KeyboardInterrupt):
            asyncio.run(serve(instance, on_ready=announce))
    except ValueError as error:  # the state file is invalid
        fail(str(error), 2)
    except OSError as error:
        fail(f"cannot listen on {options['host']}:{options['port']}: {error.strerror}")


@click.command()
@click.option("--groups", type=click.IntRange(1, 30_000), default=500, help="Groups to edit.")
@click.option("--keep", is_flag=True, help="Leave the emulator and its page open until Ctrl-C.")
@json_option
def demo(groups: int, keep: bool) -> None:
    """Edit 1,500 slots of a local emulator at the rate limit of the service."""
    from aiomutex.emulator import MutexEmulator

    # With a plain ``with``, the emulator runs in its own thread and does not slow down the event loop of the client.
    with MutexEmulator(groups=groups, slots_per_group=3) as instance:
        listens = f"The emulator listens on {instance.url} with {counted(groups, 'group')}"
        click.echo(f"{listens}; a browser shows its page there.", err=True)
        result = asyncio.run(_migrate(instance))
        text = "\n".join(f"{name.replace('_', ' '):>22}  {value:,}" for name, value in result.items())
        print_json(result) if is_given("as_json") else echo(text)
        if keep:
            with suppress(KeyboardInterrupt):
                click.echo(f"The page on {instance.url} stays open (Ctrl-C ends it)", err=True)
                while True:
                    time.sleep(1)
    if result["wrong_slots"] or result["applied"] != result["edits"]:
        fail("some slots do not hold what was written")


async def _migrate(emulator: MutexEmulator) -> dict[str, Any]:
    edits = [aiomutex.SlotEdit(group, n, experiments=[1000 + n]) for group in emulator.groups for n in (1, 2, 3)]
    async with aiomutex.MutexSession("demo-key", base_url=emulator.url) as session:
        started = time.perf_counter()
        run = Run("edits", len(edits)).watch(session.rate_limiter)
        with run.bar:
            await session.edit_slots(edits, on_outcome=lambda outcome: run.count(outcome.status))
        seconds = time.perf_counter() - started
        requests, busiest_second = emulator.limits.accepted, emulator.busiest_second()
        held = [slot for group in await session.list_groups().collect() for slot in group.slots]
    return {
        "edits": len(edits),
        "applied": run.counts["applied"],
        "requests": requests,
        "answered_429": emulator.limits.rejected,
        "busiest_second": busiest_second,
        "seconds": round(seconds, 2),
        "read_back_slots": len(held),
        "wrong_slots": sum(slot.experiments != [1000 + slot.index] for slot in held),
    }


@click.command()
@click.option("--out", type=FilePath(), help="Write the report to this file.")
@click.option("--write-scratch", metavar="PROJECT_ID", help="Also create, edit and archive a group in this project.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def probe(out: str | None, write_scratch: str | None, yes: bool) -> None:
    """Test how the service behaves where its documentation is silent."""
    if write_scratch is not None:
        confirm(f"Create a group in project {write_scratch}, write to it and archive it?", yes=yes)
    report = call(lambda session: aiomutex.probe.probe(session, write_scratch=write_scratch))
    if out is None:
        click.echo(report.to_json())
        return
    with open_private(out) as file:
        file.write(report.to_json() + "\n")
    knobs = counted(len(report.dialect) + len(report.undetermined), "dialect setting")
    click.echo(f"Wrote {out}: {len(report.dialect)} of {knobs} determined with {counted(report.requests, 'request')}")
