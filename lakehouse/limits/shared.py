"""The counts of all processes together, in Redis. One script, one round trip, whatever has to be said.

A process lives under a name while its lease runs, and every count is kept per name: what a killed process counted is
worth nothing as soon as its lease has run out, and keeping a thousand idle sockets counted costs one ZADD. Redis's
clock is the only one, so that no clock of ours can lock anybody out. All keys share one hash slot. The library
`limits` counts in windows only: it knows neither leases nor several questions in one trip.

    processes           name -> end of its lease               ip:A, subnet:N     name -> open connections
    source:S            name|number -> when it was opened      evicted:NAME       numbers it has to close
    key:K|NAME          numbers that have access key K         holder:K|S         as source:S, for one key
    arrivals:LANE, share:LANE|H, keys:H                units and moment of a token bucket
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from lakehouse.conf import Settings
from lakehouse.limits.gate import per_second
from lakehouse.limits.households import share_of
from lakehouse.limits.scripts import RedisAway, Scripts

Op = tuple[Any, ...]
"""("enter", ip, subnet, household, lane), ("key", key, child, number, opened_ms, connections_max or 0),
("here" | "leave", ip, subnet, source, number, opened_ms, key, child),
("claim", source, number, opened_ms, key, child up to now) or ("fail", household); empty is what is not counted."""

TIMEOUT_S = 1.0
PREFIX = "evodb:{gate}:"
KEPT_MS = 7 * 24 * 3600 * 1000
"""Counts of an address nobody came from for so long are forgotten, if a process died without taking them along."""

SCRIPT = """
local request = cjson.decode(ARGV[1])
local prefix, me, limits = KEYS[1], request.me, request.limits
local processes = prefix .. 'processes'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

redis.call('ZREMRANGEBYSCORE', processes, '-inf', now)
for _, name in ipairs(request.former) do redis.call('ZREM', processes, name) end
if me == '' then return '{"known":true}' end
if not request.new and not redis.call('ZSCORE', processes, me) then return '{"known":false}' end
redis.call('ZADD', processes, now + limits.lease_ms, me)
local alive = {}
for _, name in ipairs(redis.call('ZRANGE', processes, 0, -1)) do alive[name] = true end

local function each_alive(key, visit)
  local found = redis.call('HGETALL', key)
  for i = 1, #found, 2 do
    if alive[string.match(found[i], '^[^|]*')] then visit(found[i], tonumber(found[i + 1]))
    else redis.call('HDEL', key, found[i]) end
  end
end

local function total(key)
  local sum = 0
  each_alive(key, function(_, count) sum = sum + count end)
  return sum
end

local function add(key, change)
  if redis.call('HINCRBY', key, me, change) <= 0 then redis.call('HDEL', key, me)
  else redis.call('PEXPIRE', key, limits.kept_ms) end
end

local function count(ip, subnet, change)
  if ip ~= '' then
    add(prefix .. 'ip:' .. ip, change)
    add(prefix .. 'subnet:' .. subnet, change)
  end
end

local function units_of(key, rate, clock)
  local units, at = unpack(redis.call('HMGET', key, 'units', 'at'))
  local earned = math.max(0, clock - (tonumber(at) or clock)) * rate
  return math.min(rate * 1000, (tonumber(units) or rate * 1000) + earned)
end

local function keep(key, units, clock, lasts_ms)
  redis.call('HSET', key, 'units', units, 'at', clock)
  redis.call('PEXPIRE', key, lasts_ms)
end

local function oldest_first(key, mine)
  local fields, since = {}, {}
  each_alive(key, function(field, at)
    since[field] = {at, tonumber(string.match(field, '%d+$'))}
    if field ~= mine then fields[#fields + 1] = field end
  end)
  table.sort(fields, function(a, b)
    local x, y = since[a], since[b]
    if x[1] ~= y[1] then return x[1] < y[1] elseif x[2] ~= y[2] then return x[2] < y[2] else return a < b end
  end)
  return fields
end

local function evict(field)
  local name, its = string.match(field, '^([^|]*)|(.*)$')
  redis.call('RPUSH', prefix .. 'evicted:' .. name, its)
  redis.call('PEXPIRE', prefix .. 'evicted:' .. name, limits.lease_ms)
end

local function holders(key, name) return prefix .. 'key:' .. key .. '|' .. name end

local function holder(key, child) return prefix .. 'holder:' .. key .. '|' .. child end

local function hold(key, child, number, opened)
  redis.call('SADD', holders(key, me), number)
  redis.call('PEXPIRE', holders(key, me), limits.kept_ms)
  if child ~= '' then
    redis.call('HSET', holder(key, child), me .. '|' .. number, opened)
    redis.call('PEXPIRE', holder(key, child), limits.kept_ms)
  end
end

local function drop(key, child, field)
  local name, its = string.match(field, '^([^|]*)|(.*)$')
  redis.call('HDEL', holder(key, child), field)
  return redis.call('SREM', holders(key, name), its) == 1
end

local op = {}

function op.enter(ip, subnet, household, lane)
  if ip ~= '' then
    if total(prefix .. 'ip:' .. ip) >= limits.per_ip or total(prefix .. 'subnet:' .. subnet) >= limits.per_subnet then
      return {'ip_limit', 0, 1}
    end
    local units = units_of(prefix .. 'keys:' .. household, limits.keys_per_minute, math.floor(now / 60))
    if units < 1000 then
      return {'rate_limited', 0, math.ceil((1000 - units) / limits.keys_per_minute * 60 / 1000)}
    end
    local share = prefix .. 'share:' .. lane .. '|' .. household
    units = units_of(share, limits.share[lane], now)
    if units < 1000 then return {'rate_limited', 0, 1} end
    keep(share, units - 1000, now, 1000)
  end
  local key = prefix .. 'arrivals:' .. lane
  local units = units_of(key, limits.per_second[lane], now)
  if units < 1000 then return {'rate_limited', 0, 1} end
  keep(key, units - 1000, now, 1000)
  count(ip, subnet, 1)
  return {'', math.floor(units / 1000) - 1, 0}
end

function op.fail(household)
  local key, clock = prefix .. 'keys:' .. household, math.floor(now / 60)
  keep(key, math.max(0, units_of(key, limits.keys_per_minute, clock) - 1000), clock, 60000)
end

function op.key(key, child, number, opened, most)
  local surplus = 1 - most
  for name in pairs(alive) do surplus = surplus + redis.call('SCARD', holders(key, name)) end
  if most > 0 and surplus > 0 then
    local own = child == '' and {} or oldest_first(holder(key, child), me .. '|' .. number)
    if #own < surplus then return {'connection_limit', 0, 1} end
    for i = 1, surplus do
      drop(key, child, own[i])
      evict(own[i])
    end
  end
  hold(key, child, number, opened)
end

function op.claim(source, number, opened, key, child)
  local mine, where = me .. '|' .. number, prefix .. 'source:' .. source
  redis.call('HSET', where, mine, opened)
  redis.call('PEXPIRE', where, limits.kept_ms)
  if key ~= '' and child ~= source and drop(key, child, mine) then hold(key, source, number, opened) end
  local fields = oldest_first(where, mine)
  for i = 1, #fields + 1 - limits.per_source do
    redis.call('HDEL', where, fields[i])
    evict(fields[i])
  end
end

function op.here(ip, subnet, source, number, opened, key, child)
  count(ip, subnet, 1)
  if key ~= '' then hold(key, child, number, opened) end
  if source ~= '' then op.claim(source, number, opened, key, source) end
end

function op.leave(ip, subnet, source, number, _, key, child)
  count(ip, subnet, -1)
  if source ~= '' then redis.call('HDEL', prefix .. 'source:' .. source, me .. '|' .. number) end
  if key ~= '' then drop(key, child, me .. '|' .. number) end
end

local answers = {}
for i, said in ipairs(request.ops) do answers[i] = op[said[1]](unpack(said, 2)) or {'', 0, 0} end
local evicted = redis.call('LRANGE', prefix .. 'evicted:' .. me, 0, -1)
redis.call('DEL', prefix .. 'evicted:' .. me)
local reply = {known = true}
if #answers > 0 then reply.answers = answers end
if #evicted > 0 then reply.evicted = evicted end
return cjson.encode(reply)
"""


class Answer(msgspec.Struct, array_like=True, frozen=True):
    reason: str
    """Empty: let in."""
    remaining: int
    retry_after_s: int


class Reply(msgspec.Struct, frozen=True):
    known: bool
    """False: the lease of this process ran out, or Redis forgot; nothing was done."""
    answers: list[Answer] = []
    evicted: list[str] = []


@dataclass(frozen=True, slots=True)
class Caller:
    """The name this process counts under (empty when it goes), those it gave up, and whether it is a new one."""

    me: str
    former: Sequence[str] = ()
    new: bool = False


class SharedCounts:
    def __init__(self, settings: Settings) -> None:
        self._scripts = Scripts(settings.redis_url)
        self._script = self._scripts.add(SCRIPT)
        numbers = per_second(settings)
        self._limits = {
            "lease_ms": settings.connection_lease_ms,
            "kept_ms": KEPT_MS,
            "per_ip": settings.max_connections_per_ip,
            "per_subnet": settings.subnet_rate_limit_threshold,
            "per_source": settings.max_connections_per_source,
            "per_second": numbers,
            "share": {lane: share_of(number, settings.household_share) for lane, number in numbers.items()},
            "keys_per_minute": settings.key_failures_per_minute,
        }

    async def call(self, caller: Caller, ops: Sequence[Op]) -> Reply:
        """Say this and hear the answers, one for each. Raises RedisAway; then nobody knows whether it was heard."""
        request = msgspec.json.encode(
            {"me": caller.me, "former": caller.former, "new": caller.new, "limits": self._limits, "ops": ops}
        )
        text = await self._scripts.run(self._script, [PREFIX], [request], timeout_s=TIMEOUT_S)
        try:
            return msgspec.json.decode(text, type=Reply)
        except msgspec.MsgspecError as exc:
            raise RedisAway(f"Redis answered what nobody asked for: {exc}") from exc

    async def close(self) -> None:
        await self._scripts.close()
