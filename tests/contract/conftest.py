"""The tools the contract is checked by; a deep test that misses one fails and says how to get it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PRISM_HOME = Path.home() / ".cache" / "aiomutex" / "prism"


@pytest.fixture(scope="session")
def prism() -> str:
    """Prism's command."""
    named = os.environ.get("PRISM")
    for command in (named, shutil.which("prism"), str(PRISM_HOME / "node_modules" / ".bin" / "prism")):
        if command and Path(command).exists():
            return command
    pytest.fail("Prism is missing: run .ci/install-prism, or name its command in the variable PRISM")


@pytest.fixture(scope="session")
def schemathesis() -> list[str]:
    """The command that runs schemathesis."""
    command = [sys.executable, "-m", "schemathesis.cli"]
    found = subprocess.run([*command, "--version"], check=False, capture_output=True)
    if found.returncode:
        pytest.fail("schemathesis is missing: pip install 'aiomutex[contract]'")
    return command
