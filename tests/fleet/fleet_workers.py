"""The module of the workers: ``taskiq worker fleet_workers:broker``."""

from __future__ import annotations

import os

from aiomutex.fleet import Fleet

fleet = Fleet(os.environ["FLEET_REDIS"], name="project-1", claim_timeout=1.5, batch_size=20, max_jobs=12)
broker = fleet.broker
