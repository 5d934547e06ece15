"""Every decoder, header and file parser there is, by name, and what each promises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fuzz_emulator import EMULATOR
from fuzz_files import FILES
from fuzz_plans import PLANS
from fuzz_requests import REQUESTS
from fuzz_responses import ANSWERS

if TYPE_CHECKING:
    from fuzz_promises import Target

TARGETS: Final[dict[str, Target]] = {**ANSWERS, **REQUESTS, **FILES, **PLANS, **EMULATOR}
