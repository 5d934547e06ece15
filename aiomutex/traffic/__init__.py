"""Which slot a user lands in, and how much traffic an experiment gets.

Pure functions of groups: no session and no network. Bucketing needs the ``mmh3`` package
(``pip install 'aiomutex[traffic]'``); shares need no extra package.
"""

from aiomutex.traffic.bucketing import Bucketing, slot_of, slot_share, split_of, traffic_share
from aiomutex.traffic.simulation import (
    Comparison,
    ExperimentMove,
    GroupCount,
    Overlap,
    Simulation,
    compare,
    read_users,
    sample_users,
    sampling_error,
    simulate,
)

__all__ = ["Bucketing", "Comparison", "ExperimentMove", "GroupCount", "Overlap", "Simulation", "compare", "read_users"]
__all__ += ["sample_users", "sampling_error", "simulate", "slot_of", "slot_share", "split_of", "traffic_share"]
