"""Every file that ``pyproject.toml`` and the scripts in ``.ci`` name exists, so that a rename cannot skip a check."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [ROOT / "pyproject.toml", *sorted(ROOT.glob(".ci/*"))]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_each_named_path_exists(file: Path) -> None:
    for path in re.findall(r"(?<![\w/.])(?:tests|benchmarks|aiomutex)/[\w/.*]*\w", file.read_text()):
        # A script may name part of a file name, before a variable or braces.
        assert next(ROOT.glob(path), None) or next(ROOT.glob(f"{path}*"), None), path
