"""How often something may come, counted by all processes together, in Redis: token buckets, and the last minute.

Asked for every request over HTTP and for no frame of a socket: one script, one round trip, 0.3 ms. Redis's clock is the
only one. What is kept of a caller goes by itself as soon as it would let everything in again. When Redis is away nobody
waits for it twice within AWAY_S: the answer is None, and what a process counted by itself decides.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from lakehouse.limits.bucket import UNITS
from lakehouse.limits.scripts import RedisAway, Scripts
from lakehouse.limits.shared import PREFIX

log = logging.getLogger(__name__)

TIMEOUT_S, AWAY_S = 0.5, 1.0
WINDOW_S = 60

BUCKET = """
local rate, capacity, unit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local kept = redis.call('HMGET', KEYS[1], 'units', 'at')
local units = math.min(capacity, (tonumber(kept[1]) or capacity) + math.max(0, now - (tonumber(kept[2]) or now)) * rate)
if units < unit then return {0, units} end
redis.call('HSET', KEYS[1], 'units', units - unit, 'at', now)
redis.call('PEXPIRE', KEYS[1], math.ceil((capacity - units + unit) / rate) + 1)
return {1, units - unit}
"""
WINDOW = """
local more = {tonumber(ARGV[1]), tonumber(ARGV[2])}
local most = {tonumber(ARGV[3]), tonumber(ARGV[4])}
local lasts = tonumber(ARGV[5])
local now = tonumber(redis.call('TIME')[1])
local sums, first, last = {0, 0}, now, now - lasts
local found = redis.call('HGETALL', KEYS[1])
for i = 1, #found, 2 do
  local second, what = string.match(found[i], '^(%d+)(%a)$')
  local age = now - tonumber(second)
  if age < 0 or age > lasts then redis.call('HDEL', KEYS[1], found[i])
  else
    local place = what == 'r' and 1 or 2
    sums[place] = sums[place] + tonumber(found[i + 1])
    first, last = math.min(first, tonumber(second)), math.max(last, tonumber(second))
  end
end
local is_in = 1
for i = 1, 2 do if more[i] > 0 and sums[i] + more[i] > most[i] then is_in = 0 end end
if is_in == 1 then
  for i, what in ipairs({'r', 'e'}) do
    if more[i] > 0 then
      redis.call('HINCRBY', KEYS[1], string.format('%d%s', now, what), more[i])
      sums[i], last = sums[i] + more[i], now
    end
  end
  redis.call('EXPIRE', KEYS[1], lasts + 2)
end
return {is_in, sums[1], sums[2], now - first, now - last}
"""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Whether there was one, and the units that are left."""

    is_taken: bool
    units: int


@dataclass(frozen=True, slots=True)
class Minute:
    """Whether so much more fits, and what came within the last minute; the ages of its first and its last second."""

    is_taken: bool
    requests: int
    events: int
    first_age_s: int
    last_age_s: int


class SharedRates:
    def __init__(self, redis_url: str) -> None:
        self._scripts = Scripts(redis_url)
        self._bucket = self._scripts.add(BUCKET)
        self._window = self._scripts.add(WINDOW)
        self._away_until_s: float | None = None

    async def take_token(self, whose: str, *, per_second: int, capacity: int) -> Tokens | None:
        """`capacity` in units."""
        found = await self._ask(self._bucket, f"bucket:{whose}", [per_second, capacity, UNITS])
        return None if found is None else Tokens(found[0] == 1, found[1])

    async def take_of_minute(
        self, whose: str, *, requests: int = 0, events: int = 0, requests_max: int, events_max: int
    ) -> Minute | None:
        numbers = [requests, events, requests_max, events_max, WINDOW_S]
        found = await self._ask(self._window, f"minute:{whose}", numbers)
        return None if found is None else Minute(found[0] == 1, *found[1:])

    async def close(self) -> None:
        await self._scripts.close()

    async def _ask(self, script: Any, key: str, numbers: list[int]) -> list[int] | None:
        """None when Redis is away."""
        now_s = asyncio.get_running_loop().time()
        if self._away_until_s is not None and now_s < self._away_until_s:
            return None
        try:
            found: list[int] = await self._scripts.run(script, [PREFIX + key], numbers, timeout_s=TIMEOUT_S)
        except RedisAway as exc:
            if self._away_until_s is None:
                log.warning("Redis is away, rates over HTTP hold per process until it is back: %s", exc)
            self._away_until_s = now_s + AWAY_S
            return None
        if self._away_until_s is not None:
            log.warning("Redis is back: rates over HTTP hold for all processes together again")
            self._away_until_s = None
        return found
