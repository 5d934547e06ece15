"""Rate limiters: how many requests may leave, in a sliding second and in a UTC day."""

from aiomutex.limits.interface import LimiterState, Priority, RateLimiter
from aiomutex.limits.local import LocalRateLimiter

__all__ = ["LimiterState", "LocalRateLimiter", "Priority", "RateLimiter"]
