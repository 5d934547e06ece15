"""Rate limiters: at most so many requests in any second and on any UTC day."""

from aiomutex.limits.interface import LimiterState, Priority, RateLimiter
from aiomutex.limits.local import LocalRateLimiter

__all__ = ["LimiterState", "LocalRateLimiter", "Priority", "RateLimiter"]
