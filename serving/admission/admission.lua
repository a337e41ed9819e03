-- One batch of one gateway: its operations in order, in one piece, after `clock.lua`. See
-- `reservations.py`.
--
-- ARGV: prefix of all keys; gateway; number of the batch; lease of a gateway, ms; operations, JSON.
-- Keys: gateways         zset  gateway -> end of its lease, ms
--       batches          hash  gateway -> its last batch
--       held:<gateway>   hash  reservation -> what it holds, JSON
--       window:<subject> zset  `<reservation>|<tokens>` -> when it was made, ms
--       tokens:<subject> sum of the tokens in that window
--       windows          zset  subject -> when its window was last looked through, ms
--       open:<subject>   set   of reservations
--       budget:<name>    hash  spent, reserved: billionths of the currency; before `spent` is
--                              known: version, settlements since somebody began to look it up
--       outbox           stream of ledger rows on their way to SQL
-- Limits of a subject are {name, requests a minute, tokens a minute, open at once}; -1: none.
-- A budget is {name, limit, seconds to keep it}.
-- Returns JSON: whether the gateway was known, and a reply for each operation; no replies when the
-- batch was done before.
-- Most of the time goes into `redis.call`, so each is made only where its answer can matter.

local gateway, batch, lease = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local MINUTE, REAPED_AT_ONCE, SWEPT_AT_ONCE = 60000, 500, 20
local function tokens_of(entry) return tonumber(string.match(entry, '|(%d+)$')) end

-- Drop what is older than a minute. How many requests and tokens are left.
local function window(subject)
  local name, sum = P .. 'window:' .. subject, P .. 'tokens:' .. subject
  local old = call('ZRANGEBYSCORE', name, '-inf', whole(now - MINUTE))
  if #old > 0 then
    local tokens = 0
    for _, entry in ipairs(old) do tokens = tokens + tokens_of(entry) end
    call('ZREMRANGEBYSCORE', name, '-inf', whole(now - MINUTE))
    call('DECRBY', sum, whole(tokens))
  end
  return call('ZCARD', name), tonumber(call('GET', sum) or 0)
end

-- Milliseconds until `freed(entries so far, tokens so far)`, counted from the oldest entry.
local function wait_until(subject, freed)
  local entries = call('ZRANGE', P .. 'window:' .. subject, 0, -1, 'WITHSCORES')
  local tokens = 0
  for i = 1, #entries, 2 do
    tokens = tokens + tokens_of(entries[i])
    if freed((i + 1) / 2, tokens) then return tonumber(entries[i + 1]) + MINUTE - now end
  end
  return MINUTE
end

-- What forbids a request, if anything does, and for how many milliseconds. `used` is of a subject
-- with limits on a minute: its requests and tokens.
local function refusal(limits, used, tokens)
  local subject, requests, most, open = limits[1], limits[2], limits[3], limits[4]
  if requests >= 0 and used[1] + 1 > requests then
    local over = used[1] + 1 - requests
    return 'requests_per_minute', wait_until(subject, function(n) return n >= over end)
  end
  if most >= 0 and used[2] + tokens > most then
    local over = used[2] + tokens - most
    return 'tokens_per_minute', wait_until(subject, function(_, n) return n >= over end)
  end
  if open >= 0 and call('SCARD', P .. 'open:' .. subject) >= open then
    return 'concurrent_requests', 1000
  end
end

local function is_windowed(limits) return limits[2] >= 0 or limits[3] >= 0 end

-- Milliseconds until all of a window is free.
local function reset(subject, granted)
  if granted then return MINUTE end
  local newest = call('ZRANGE', P .. 'window:' .. subject, -1, -1, 'WITHSCORES')
  return newest[2] and math.max(0, tonumber(newest[2]) + MINUTE - now) or 0
end

-- `reply`, and {limit, remaining, ms until all of it is there again} of requests, then of tokens:
-- for each the subject with the least remaining; -1 where there is no limit.
local function with_quota(reply, all, used, tokens)
  local granted = tokens ~= nil
  local told = {-1, -1, -1, -1, -1, -1}
  for i, limits in ipairs(all) do
    if is_windowed(limits) and used[i] then
      local left = limits[2] - used[i][1] - (granted and 1 or 0)
      if limits[2] >= 0 and (told[1] < 0 or left < told[2]) then
        told[1], told[2], told[3] = limits[2], math.max(0, left), reset(limits[1], granted)
      end
      left = limits[3] - used[i][2] - (tokens or 0)
      if limits[3] >= 0 and (told[4] < 0 or left < told[5]) then
        told[4], told[5], told[6] = limits[3], math.max(0, left), reset(limits[1], granted)
      end
    end
  end
  for _, number in ipairs(told) do reply[#reply + 1] = number end
  return reply
end

-- Settlements since its sum was first asked for: one between the look-up and its answer may be
-- in that answer or not.
local function version(budget)
  local name = P .. 'budget:' .. budget[1]
  local seen = call('HINCRBY', name, 'version', 0)
  if seen == 0 then call('EXPIRE', name, whole(budget[3])) end
  return seen
end

local function over_budget(budgets, cost)
  for i, budget in ipairs(budgets) do
    local sums = call('HMGET', P .. 'budget:' .. budget[1], 'spent', 'reserved')
    if not sums[1] then return {'uninitialised', i - 1, version(budget)} end
    local spent, reserved = tonumber(sums[1]), tonumber(sums[2] or 0)
    if spent + reserved + cost > budget[2] then
      return {spent + cost > budget[2] and 'exhausted' or 'reserved', i - 1}
    end
  end
end

-- Open the reservation, and hold its share of budgets.
local function hold(o)
  for _, limits in ipairs(o.limits) do
    if limits[4] >= 0 then call('SADD', P .. 'open:' .. limits[1], o.id) end
  end
  for _, budget in ipairs(o.budgets) do
    call('HINCRBY', P .. 'budget:' .. budget[1], 'reserved', whole(o.cost))
  end
  call('HSET', P .. 'held:' .. gateway, o.id, o.held)
end

-- The refusal of a request by its limits, if there is one, and what is used of them.
local function refused(o)
  local used = {}
  for i, limits in ipairs(o.limits) do
    if is_windowed(limits) then used[i] = {window(limits[1])} end
    local measure, wait = refusal(limits, used[i], o.tokens)
    if measure then
      wait = math.max(1, math.ceil(wait))
      return with_quota({'refused', measure, i - 1, wait}, o.limits, used), used
    end
  end
  return nil, used
end

local function look(o)
  local reply, used = refused(o)
  return reply or with_quota({'granted', now}, o.limits, used)
end

local function reserve(o)
  local reply, used = refused(o)
  if reply then return reply end
  local over = over_budget(o.budgets, o.cost)
  if over then return over end
  local tokens = whole(o.tokens)
  for i, limits in ipairs(o.limits) do
    if used[i] then
      call('ZADD', P .. 'window:' .. limits[1], whole(now), o.id .. '|' .. tokens)
      if o.tokens > 0 then call('INCRBY', P .. 'tokens:' .. limits[1], tokens) end
      if used[i][1] == 0 then call('ZADD', P .. 'windows', whole(now), limits[1]) end
    end
  end
  hold(o)
  return with_quota({'granted', now}, o.limits, used, o.tokens)
end

-- Hold again what Valkey lost, or never heard of. It is in no window: that minute is gone.
local function restore(o)
  if call('HEXISTS', P .. 'held:' .. gateway, o.id) == 0 then hold(o) end
  return {'restored'}
end

-- Put what was used in the place of what was reserved at `made`, or nothing.
local function replace(o, limits)
  local name, sum = P .. 'window:' .. limits[1], P .. 'tokens:' .. limits[1]
  if o.keep and (limits[3] < 0 or o.used == o.tokens) then return end
  if call('ZREM', name, o.id .. '|' .. whole(o.tokens)) == 0 then return end
  local used = o.keep and o.used or 0
  if used ~= o.tokens then call('INCRBY', sum, whole(used - o.tokens)) end
  if o.keep then call('ZADD', name, whole(o.made), o.id .. '|' .. whole(used)) end
end

local function release(o)
  for _, limits in ipairs(o.limits) do
    if limits[4] >= 0 then call('SREM', P .. 'open:' .. limits[1], o.id) end
  end
  for _, budget in ipairs(o.budgets) do
    call('HINCRBY', P .. 'budget:' .. budget[1], 'reserved', whole(-o.cost))
  end
end

-- Into every sum that it belongs to, also of a budget that was set while the request ran.
local function spend(o)
  if o.spent == 0 then return end
  for _, sum in ipairs(o.sums) do
    local name = P .. 'budget:' .. sum
    local known = call('HMGET', name, 'spent', 'version')
    -- One that is not initialised yet takes this cost from the ledger when it is.
    if known[1] then
      call('HINCRBY', name, 'spent', whole(o.spent))
    elseif known[2] then
      call('HINCRBY', name, 'version', 1)
    end
  end
end

local function settle(o)
  if o.row ~= cjson.null then call('XADD', P .. 'outbox', '*', 'row', o.row) end
  if call('HDEL', P .. 'held:' .. gateway, o.id) == 1 then release(o) end
  for _, limits in ipairs(o.limits) do
    if is_windowed(limits) then replace(o, limits) end
  end
  spend(o)
  return {'settled'}
end

local function initialise(o)
  local name = P .. 'budget:' .. o.name
  if tonumber(call('HGET', name, 'version') or -1) ~= o.version then return {'moved'} end
  call('HSETNX', name, 'spent', whole(o.spent))
  call('EXPIRE', name, whole(o.keep_s))
  return {'initialised'}
end

-- Requests of a gateway that died cost nothing; they stay in the windows and in the ledger.
local function reap()
  local dead = call('ZRANGEBYSCORE', P .. 'gateways', '-inf', whole(now), 'LIMIT', 0, 1)[1]
  if not dead then return end
  local name = P .. 'held:' .. dead
  local fields = call('HSCAN', name, 0, 'COUNT', REAPED_AT_ONCE)[2]
  for i = 1, #fields, 2 do
    local held = cjson.decode(fields[i + 1])
    held.id = fields[i]
    call('HDEL', name, held.id)
    release(held)
    call('XADD', P .. 'outbox', '*', 'row', held.facts)
  end
  if call('HLEN', name) == 0 then
    call('ZREM', P .. 'gateways', dead)
    call('HDEL', P .. 'batches', dead)
  end
end

-- Windows that nobody asks about any more would stay for ever.
local function sweep()
  local due = whole(now - 2 * MINUTE)
  local subjects = call('ZRANGEBYSCORE', P .. 'windows', '-inf', due, 'LIMIT', 0, SWEPT_AT_ONCE)
  for _, subject in ipairs(subjects) do
    if window(subject) == 0 then
      call('DEL', P .. 'window:' .. subject, P .. 'tokens:' .. subject)
      call('ZREM', P .. 'windows', subject)
    else
      call('ZADD', P .. 'windows', whole(now), subject)
    end
  end
end

local known = call('ZADD', P .. 'gateways', whole(now + lease), gateway) == 0
reap()
if batch <= tonumber(call('HGET', P .. 'batches', gateway) or 0) then
  return cjson.encode({known})
end
call('HSET', P .. 'batches', gateway, whole(batch))

local DO = {
  look = look, reserve = reserve, settle = settle, initialise = initialise, restore = restore,
}
local replies = {known}
local operations = cjson.decode(ARGV[5])
if #operations == 0 then sweep() end
for _, o in ipairs(operations) do
  -- One that fails, by a key of another type or a bug, must not keep all others from being done.
  local done, reply = pcall(DO[o['do']], o)
  replies[#replies + 1] = done and reply or {'failed'}
end
return cjson.encode(replies)
