"""Everything that knows aiohttp: configuration, calls with their retries, attempts, connections."""
