"""What a user's module looks like: ``taskiq worker fleet_workers:broker``."""

from __future__ import annotations

import os

from aiomutex.bulk.fleet import Fleet

fleet = Fleet(os.environ["FLEET_REDIS"], name="project-1", take_over_after=1.5, job_size=20, abreast=12)
broker = fleet.broker
