"""Who lands in which slot, and how much traffic an experiment gets.

Pure arithmetic on groups: no session, no network. Hashing needs the ``mmh3`` package (``pip install
'aiomutex[traffic]'``); shares need nothing.
"""

from aiomutex.traffic.bucketing import Bucketing, slot_of
from aiomutex.traffic.shares import slot_share, traffic_share
from aiomutex.traffic.simulation import (
    Comparison,
    ExperimentMove,
    GroupCount,
    Overlap,
    Simulation,
    compare,
    read_users,
    simulate,
)

__all__ = [
    "Bucketing",
    "Comparison",
    "ExperimentMove",
    "GroupCount",
    "Overlap",
    "Simulation",
    "compare",
    "read_users",
    "simulate",
    "slot_of",
    "slot_share",
    "traffic_share",
]
