-- One step of an attempt at a provider, in one piece, after `clock.lua`. See `gatekeeper.py`.
--
-- ARGV: prefix of all keys; the step, JSON.
-- Keys: window:<provider>   zset `<attempt>|<tokens>` -> when it began, ms
--       unheard:<provider>  zset the same, while the provider has not told what is left
--       tokens:<provider>   sum of the tokens in the window
--       open:<provider>     zset attempt -> end of its lease, ms
--       left:<provider>     hash requests, tokens: what the provider said is left, less what began
--                           since; <either>_until: when all of it is there again, ms
--       rest:<provider>     hash until, ms; times: how often in a row, where it did not say how long
--       breaker:<target>    hash failed: in a row; opened: how often in a row; until, ms: not there
--                           while it is closed; probe: the attempt that may close it
--       outcomes:<target>   hash `<part of time>:good`, `<part of time>:bad`
-- What nobody asked about for an hour is forgotten. Numbers of a step are -1 where there is none.
-- Replies, JSON: to `begin` {`granted`, when, 1 for a probe} or {the reason against it, ms to wait};
-- to `ask` the same, and nothing is reserved; to others {`done`}.

local o = cjson.decode(ARGV[2])
-- A minute of the provider's, and a second for a request to reach it.
local WINDOW, PARTS, KEPT_S = 61000, 12, 3600
if o['do'] == 'renew' then
  for _, attempt in ipairs(o.attempts) do
    call('ZADD', P .. 'open:' .. attempt[1], whole(now + o.lease), attempt[2])
    call('EXPIRE', P .. 'open:' .. attempt[1], KEPT_S)
  end
  return cjson.encode({'done'})
end

local window, unheard = P .. 'window:' .. o.provider, P .. 'unheard:' .. o.provider
local sum, open = P .. 'tokens:' .. o.provider, P .. 'open:' .. o.provider
local left, rest = P .. 'left:' .. o.provider, P .. 'rest:' .. o.provider
local breaker, outcomes = P .. 'breaker:' .. o.target, P .. 'outcomes:' .. o.target
local entry = o.id .. '|' .. whole(o.tokens)

local function keep()
  for _, name in ipairs({window, unheard, sum, open, left, rest, breaker, outcomes}) do
    call('EXPIRE', name, KEPT_S)
  end
end

local function tokens_of(one) return tonumber(string.match(one, '|(%d+)$')) end

local function tokens_in(entries)
  local tokens = 0
  for _, one in ipairs(entries) do tokens = tokens + tokens_of(one) end
  return tokens
end

-- Drop what is too old. How many requests and tokens are in the window.
local function used()
  local old = call('ZRANGEBYSCORE', window, '-inf', whole(now - WINDOW))
  if #old > 0 then
    call('ZREMRANGEBYSCORE', window, '-inf', whole(now - WINDOW))
    call('ZREMRANGEBYSCORE', unheard, '-inf', whole(now - WINDOW))
    call('DECRBY', sum, whole(tokens_in(old)))
  end
  return call('ZCARD', window), tonumber(call('GET', sum) or 0)
end

-- Milliseconds until so many requests or, if that is not enough, tokens have left the window.
local function wait_until(requests, tokens)
  local entries = call('ZRANGE', window, 0, -1, 'WITHSCORES')
  for i = 1, #entries, 2 do
    requests, tokens = requests - 1, tokens - tokens_of(entries[i])
    if requests <= 0 and tokens <= 0 then return tonumber(entries[i + 1]) + WINDOW - now end
  end
  return WINDOW
end

-- What is left by what the provider said, and for how many milliseconds that holds.
local function said(what)
  local seen = call('HMGET', left, what, what .. '_until')
  if seen[1] and now < tonumber(seen[2]) then return tonumber(seen[1]), tonumber(seen[2]) - now end
end

-- What the provider's limits forbid, and for how many milliseconds.
local function over_limit()
  local requests, tokens = used()
  local over = requests + 1 - o.limits[1]
  if o.limits[1] >= 0 and over > 0 then return 'requests_per_minute', wait_until(over, 0) end
  over = tokens + o.tokens - o.limits[2]
  if o.limits[2] >= 0 and over > 0 then return 'tokens_per_minute', wait_until(0, over) end
  call('ZREMRANGEBYSCORE', open, '-inf', whole(now))
  if o.limits[3] >= 0 and call('ZCARD', open) >= o.limits[3] then
    return 'concurrent_requests', 1000
  end
  for what, needed in pairs({requests = 1, tokens = o.tokens}) do
    local there, wait = said(what)
    if there and there < needed then return what .. '_left', wait end
  end
end

local function resting()
  local ends = tonumber(call('HGET', rest, 'until') or 0)
  if now < ends then return 'resting', ends - now end
end

-- Why the breaker lets nothing through, and for how many milliseconds; `probe`: one attempt.
local function broken()
  local seen = call('HMGET', breaker, 'until', 'probe')
  if not seen[1] then return end
  if now < tonumber(seen[1]) then return 'open', tonumber(seen[1]) - now end
  local lease = seen[2] and tonumber(call('ZSCORE', open, seen[2]) or 0) or 0
  if now < lease then return 'probing', 1000 end
  return 'probe', 0
end

-- What is against an attempt, as it is replied; else nil, and whether it would be a probe.
local function against()
  local reason, wait = resting()
  if reason then return {reason, wait} end
  local state, cooldown = broken()
  if state and state ~= 'probe' then return {state, cooldown} end
  reason, wait = over_limit()
  if reason then return {reason, math.max(1, wait)} end
  return nil, state
end

local function begin()
  local denied, state = against()
  if denied then return denied end
  for what, taken in pairs({requests = 1, tokens = o.tokens}) do
    if said(what) then call('HINCRBY', left, what, whole(-taken)) end
  end
  if state then call('HSET', breaker, 'probe', o.id) end
  call('ZADD', window, whole(now), entry)
  call('ZADD', unheard, whole(now), entry)
  call('INCRBY', sum, whole(o.tokens))
  call('ZADD', open, whole(now + o.lease), o.id)
  keep()
  return {'granted', now, state and 1 or 0}
end

-- What the provider cannot have counted when it told what is left: what began later, and what
-- began before and was not heard of.
local function uncounted()
  local later = call('ZRANGEBYSCORE', window, '(' .. whole(o.made), '+inf')
  local silent = call('ZRANGEBYSCORE', unheard, '-inf', whole(o.made))
  return {requests = #later + #silent, tokens = tokens_in(later) + tokens_in(silent)}
end

local function tell()
  call('ZREM', unheard, entry)
  local unseen = uncounted()
  for what, told in pairs(o.left) do
    call('HSET', left, what, whole(told[1] - unseen[what]), what .. '_until', whole(now + told[2]))
  end
  keep()
end

-- Put what was used in the place of what was reserved.
local function settle()
  call('ZREM', unheard, entry)
  if o.used < 0 or o.used == o.tokens or call('ZREM', window, entry) == 0 then return end
  call('INCRBY', sum, whole(o.used - o.tokens))
  call('ZADD', window, whole(o.made), o.id .. '|' .. whole(o.used))
end

local function growing(times)
  return math.min(o.max_cooldown, o.cooldown * 2 ^ (math.min(times, 30) - 1)) * o.spread
end

-- The provider rests as long as it asked, or longer each time; a burst of refusals is one time.
local function let_rest()
  local ends = tonumber(call('HGET', rest, 'until') or 0)
  local span = math.min(o.retry_after, o.max_cooldown)
  if o.retry_after < 0 then
    if now < ends or o.made < ends then return end
    span = growing(call('HINCRBY', rest, 'times', 1))
  end
  call('HSET', rest, 'until', whole(math.max(ends, now + span)))
end

-- An attempt that began before the rest says nothing about the time after.
local function rested()
  local ends = tonumber(call('HGET', rest, 'until') or 0)
  if o.made >= ends then call('HDEL', rest, 'times') end
end

local function trip()
  local cooldown = growing(call('HINCRBY', breaker, 'opened', 1))
  call('HSET', breaker, 'until', whole(now + cooldown))
  call('HDEL', breaker, 'probe', 'failed')
  call('DEL', outcomes)
end

-- How many ended well and badly in the window, with this one.
local function counted(kind)
  local part = math.floor(now / (o.window / PARTS))
  call('HINCRBY', outcomes, whole(part) .. ':' .. kind, 1)
  local counts, sums = call('HGETALL', outcomes), {good = 0, bad = 0}
  for i = 1, #counts, 2 do
    local of, sort = string.match(counts[i], '^(%d+):(%a+)$')
    if tonumber(of) < part - PARTS then
      call('HDEL', outcomes, counts[i])
    else
      sums[sort] = sums[sort] + tonumber(counts[i + 1])
    end
  end
  return sums.good + sums.bad, sums.bad
end

local function failed()
  local row = call('HINCRBY', breaker, 'failed', 1)
  local all, bad = counted('bad')
  if row >= o.failures_in_row or (all >= o.least_outcomes and bad >= o.failure_rate * all) then
    trip()
  end
end

-- The probe's word is the only one that counts while the breaker is not closed.
local function probed()
  if o.outcome == 'completed' then
    call('DEL', breaker, outcomes)
  elseif o.outcome == 'failed' then
    trip()
  else
    call('HDEL', breaker, 'probe')
  end
end

local function judge()
  local seen = call('HMGET', breaker, 'until', 'probe')
  if seen[1] then
    if seen[2] == o.id then probed() end
  elseif o.outcome == 'completed' then
    call('HDEL', breaker, 'failed')
    counted('good')
  elseif o.outcome == 'failed' then
    failed()
  end
end

local function finish()
  settle()
  call('ZREM', open, o.id)
  if o.outcome == 'completed' then rested() end
  if o.outcome == 'throttled' or (o.outcome == 'failed' and o.retry_after >= 0) then let_rest() end
  judge()
  keep()
end

if o['do'] == 'ask' then return cjson.encode(against() or {'granted', now, 0}) end
if o['do'] == 'begin' then return cjson.encode(begin()) end
if o['do'] == 'tell' then tell() else finish() end
return cjson.encode({'done'})
