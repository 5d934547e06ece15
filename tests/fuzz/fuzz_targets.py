"""All fuzz targets by name: every decoder, header and file parser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fuzz_emulator import EMULATOR
from fuzz_files import FILES
from fuzz_plans import PLANS
from fuzz_requests import REQUESTS
from fuzz_responses import RESPONSES

if TYPE_CHECKING:
    from fuzz_promises import Target

TARGETS: Final[dict[str, Target]] = {**RESPONSES, **REQUESTS, **FILES, **PLANS, **EMULATOR}
