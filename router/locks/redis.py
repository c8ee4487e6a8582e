"""Locks of unique jobs in Redis, for workers and applications on several hosts.

Each change is one Lua script, so it is atomic; leases are Redis's own expiry, so its clock alone counts. A key's value
is ``round:attempt:job``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from router.config.urls import mask_url
from router.errors import BrokerRefused, LocksUnavailable
from router.locks.base import Claim, Held, Lease, Superseded, Taken, Verdict

PREFIX = "router:lock:"

CONNECT_SECONDS = 1.0
ANSWER_SECONDS = 1.0
"""With one more try after a failure, these keep every call under 5 seconds."""

_AT_ONCE = 500
"""Locks that are looked at in one go."""

# What is held, compared with the claim in ARGV[1..3] = job, round, attempt.
_COMPARE = """
local function compare()
  local value = redis.call('GET', KEYS[1])
  if not value then return 'free' end
  local round, attempt, job = string.match(value, '^(%d+):(%d+):(.*)$')
  if job ~= ARGV[1] then return 'taken', job end
  round, attempt = tonumber(round), tonumber(attempt)
  local my_round, my_attempt = tonumber(ARGV[2]), tonumber(ARGV[3])
  if round > my_round or (round == my_round and attempt > my_attempt) then return 'superseded' end
  return 'held'
end
local function take()
  redis.call('SET', KEYS[1], ARGV[2] .. ':' .. ARGV[3] .. ':' .. ARGV[1], 'PX', ARGV[4])
end
local state, holder = compare()
"""

_HOLD = (
    _COMPARE
    + """
if state == 'free' or state == 'held' then take() return {'held', ''} end
return {state, holder or ''}
"""
)

_EXTEND = (
    _COMPARE
    + """
if state == 'held' then take() return 1 end
return 0
"""
)

_GIVE_UP = (
    _COMPARE
    + """
if state == 'held' then redis.call('DEL', KEYS[1]) return 1 end
return 0
"""
)


class RedisLocks:
    """The contract of `Locks` at a URL like ``redis://:password@host:6379/0`` or ``rediss://…``.

    Opens nothing yet. Safe to use from many threads and after a fork: redis-py's pool gives each its own connection.
    Raises BrokerRefused for a URL that can't be read.
    """

    def __init__(self, url: str) -> None:
        self._shown = mask_url(url)
        try:
            self._redis = Redis.from_url(
                url,
                decode_responses=True,
                socket_connect_timeout=CONNECT_SECONDS,
                socket_timeout=ANSWER_SECONDS,
                # Once more: a pooled connection may have been closed by the server since it was used last.
                retry=Retry(NoBackoff(), 1),
                retry_on_error=[RedisConnectionError, RedisTimeoutError],
                client_name="router-locks",
            )
        except ValueError as error:
            raise BrokerRefused(f"locks.url {self._shown}: {error}") from error
        self._hold = self._redis.register_script(_HOLD)
        self._extend = self._redis.register_script(_EXTEND)
        self._give_up = self._redis.register_script(_GIVE_UP)

    def hold(self, claim: Claim, lease: float) -> Verdict:
        """See the contract."""
        return self.hold_many([claim], lease)[0]

    def hold_many(self, claims: Sequence[Claim], lease: float) -> list[Verdict]:
        """See the contract."""
        return [_verdict(*answer) for answer in self._run(self._hold, [(claim, lease) for claim in claims])]

    def extend(self, claim: Claim, lease: float) -> bool:
        """See the contract."""
        return self.extend_many([(claim, lease)])[0]

    def extend_many(self, claims: Sequence[tuple[Claim, float]]) -> list[bool]:
        """See the contract."""
        return [bool(answer) for answer in self._run(self._extend, claims)]

    def free(self, claim: Claim) -> bool:
        """See the contract. Where Redis's answer got lost and the call was repeated, False although it did free it."""
        return self.free_many([claim])[0]

    def free_many(self, claims: Sequence[Claim]) -> list[bool]:
        """See the contract, and `free`."""
        return [bool(answer) for answer in self._run(self._give_up, [(claim, 0.0) for claim in claims])]

    def holder(self, key: str) -> Claim | None:
        """See the contract."""
        try:
            value = cast("str | None", self._redis.get(PREFIX + key))
        except (RedisError, OSError) as error:
            raise self._unavailable(error) from error
        return None if value is None else _claim(key, value)

    def held(self, prefix: str) -> list[Lease]:
        """See the contract."""
        pattern = PREFIX + re.sub(r"([*?\[\]\\])", r"\\\1", prefix) + "*"
        found: list[Lease] = []
        try:
            keys = sorted(set(self._redis.scan_iter(match=pattern, count=1000)))
            for start in range(0, len(keys), _AT_ONCE):
                some = keys[start : start + _AT_ONCE]
                pipeline = self._redis.pipeline(transaction=False)
                for key in some:
                    pipeline.get(key)
                    pipeline.pttl(key)
                answers = pipeline.execute()
                for key, value, left in zip(some, answers[::2], answers[1::2], strict=True):
                    if value is not None and left > 0:  # it may have ended since
                        found.append(Lease(_claim(key.removeprefix(PREFIX), value), left / 1000))
        except (RedisError, OSError) as error:
            raise self._unavailable(error) from error
        return found

    def close(self) -> None:
        """See the contract."""
        self._redis.close()

    def _run(self, script: Any, claims: Sequence[tuple[Claim, float]]) -> list[Any]:
        """The script's answer for each claim and lease."""
        calls = [
            ([PREFIX + claim.key], [claim.job, claim.round, claim.attempt, max(1, round(lease * 1000))])
            for claim, lease in claims
        ]
        try:
            if len(calls) == 1:  # one round trip; a pipeline asks first whether the script is known
                return [script(*calls[0])]
            pipeline = self._redis.pipeline(transaction=False)
            for keys, arguments in calls:
                script(keys, arguments, client=pipeline)
            return pipeline.execute()
        except (RedisError, OSError) as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> LocksUnavailable:
        hint = ""
        if isinstance(error, AuthenticationError):
            hint = "; user and password go into locks.url"
        elif isinstance(error, ResponseError):
            hint = "; it must be a Redis that takes writes and runs Lua scripts"
        return LocksUnavailable(f"Redis at {self._shown}: {error}{hint}")


def _verdict(state: str, holder: str) -> Verdict:
    match state:
        case "held":
            return Held()
        case "superseded":
            return Superseded()
        case _:
            return Taken(holder)


def _claim(key: str, value: str) -> Claim:
    round_, attempt, job = value.split(":", 2)
    return Claim(key, job, int(round_), int(attempt))
