"""The cost of hot paths beside what a user would write by hand: ``python -m benchmarks [NAME …] [--quick]``.

Each benchmark is a module with ``run(size)``. ``harness`` holds what they share, ``subjects`` the clients in
comparison, and ``server`` the server that they call. See README.md.
"""

NAMES = (
    "edits",
    "gets",
    "instructions",
    "hooks",
    "decode",
    "listing",
    "memory",
    "journal",
    "economy",
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
"""All benchmarks, in the order they run."""

LONG = ("instructions", "hooks")
"""Not in a quick run unless named: Valgrind takes longer than all others together."""
