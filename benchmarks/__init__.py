"""What hot paths cost, beside what a user would write by hand: ``python -m benchmarks [NAME …] [--quick]``.

Each benchmark is a module of its own with ``run(size)``; ``harness`` is what they share, ``subjects`` the clients that
are compared, ``server`` what they call.
"""

NAMES = (
    "edits",
    "gets",
    "instructions",
    "decode",
    "listing",
    "memory",
    "journal",
    "streams",
    "limiters",
    "strict",
    "shared",
    "idle",
    "interactive",
    "load",
    "soak",
    "imports",
    "emulator",
    "traffic",
)
"""All benchmarks, in the order in which they run."""

LONG = ("instructions",)
"""Left out of a quick run unless named: valgrind alone takes longer than all the others together."""
