"""Write ``openapi.json`` from ``openapi.yaml``: the one is for people, the other is served where no YAML is known."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

FOLDER = Path(__file__).parents[2] / "aiomutex" / "emulator"

if __name__ == "__main__":
    contract = yaml.safe_load((FOLDER / "openapi.yaml").read_text())
    (FOLDER / "openapi.json").write_text(json.dumps(contract, indent=1, ensure_ascii=False) + "\n")
