-- One step of cache invalidation, after `clock.lua`. See `invalidation.py`.
--
-- ARGV: prefix of all keys; what to do; what that takes.
-- Keys: invalidations  stream `<number>-0` -> subjects, JSON; the last ones
--       invalidation   number of the last one
--       listeners      zset   gateway -> end of its lease, ms
--       heard          hash   gateway -> number of the last one that it has acted on

local MOST_KEPT = '1000'

-- Whether the gateway's lease was still good, and the number of the last invalidation.
local function listen(gateway, heard, lease)
  local ends = tonumber(call('ZSCORE', P .. 'listeners', gateway) or 0)
  call('ZADD', P .. 'listeners', whole(now + tonumber(lease)), gateway)
  call('HSET', P .. 'heard', gateway, heard)
  return {ends > now and 1 or 0, tonumber(call('GET', P .. 'invalidation') or 0)}
end

local function announce(subjects)
  local number = call('INCR', P .. 'invalidation')
  local id = whole(number) .. '-0'
  call('XADD', P .. 'invalidations', 'MAXLEN', '~', MOST_KEPT, id, 'subjects', subjects)
  return number
end

local function leave(gateway)
  call('ZREM', P .. 'listeners', gateway)
  call('HDEL', P .. 'heard', gateway)
  return 0
end

-- How many gateways have yet to act on an invalidation. One whose lease is over trusts no cache.
local function waiting(number)
  for _, gone in ipairs(call('ZRANGEBYSCORE', P .. 'listeners', '-inf', whole(now))) do
    leave(gone)
  end
  local count = 0
  for _, gateway in ipairs(call('ZRANGE', P .. 'listeners', 0, -1)) do
    local heard = tonumber(call('HGET', P .. 'heard', gateway) or 0)
    if heard < tonumber(number) then count = count + 1 end
  end
  return count
end

local DO = {listen = listen, announce = announce, leave = leave, waiting = waiting}
return DO[ARGV[2]](unpack(ARGV, 3))
