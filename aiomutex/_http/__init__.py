"""Everything that knows aiohttp: configuration, calls and their retries, attempts, connections."""
