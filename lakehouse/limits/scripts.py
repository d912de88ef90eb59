"""Our scripts in the Redis that all processes share: one round trip each, and an answer in time or none.

Who has no Redis does not import its library, 6 MiB and 0.1 s of each process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from lakehouse.errors import LakehouseError


class RedisAway(LakehouseError):
    """Redis does not answer, or not with what was asked for."""

    code = "REDIS_AWAY"
    retryable = True


class Scripts:
    def __init__(self, redis_url: str) -> None:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import RedisError

        self._client: Redis = Redis.from_url(redis_url, retry=Retry(NoBackoff(), 0))
        self._away = (RedisError, OSError)

    def add(self, text: str) -> Any:
        """The script, to be run with `run`."""
        return self._client.register_script(text)

    async def run(self, script: Any, keys: Sequence[str], arguments: Sequence[Any], *, timeout_s: float) -> Any:
        """Its answer. Raises RedisAway; then nobody knows whether it ran."""
        try:
            async with asyncio.timeout(timeout_s):
                return await script(keys=keys, args=arguments)
        except TimeoutError:
            raise RedisAway(f"Redis gave no answer within {timeout_s} s") from None
        except self._away as exc:
            raise RedisAway(f"{type(exc).__name__}: {exc}") from exc

    async def close(self) -> None:
        await self._client.aclose()
