"""Tools that check the contract; a deep test fails if its tool is not installed."""

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
    """The command that runs Prism."""
    configured = os.environ.get("PRISM")
    for command in (configured, shutil.which("prism"), str(PRISM_HOME / "node_modules" / ".bin" / "prism")):
        if command and Path(command).exists():
            return command
    pytest.fail("Prism is not installed: run .ci/install-prism, or set PRISM to its command")


@pytest.fixture(scope="session")
def schemathesis() -> list[str]:
    """The command that runs schemathesis."""
    command = [sys.executable, "-m", "schemathesis.cli"]
    result = subprocess.run([*command, "--version"], check=False, capture_output=True)
    if result.returncode:
        pytest.fail("schemathesis is not installed: pip install 'aiomutex[contract]'")
    return command
