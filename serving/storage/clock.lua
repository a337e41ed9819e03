-- What every script of ours begins with: the prefix of its keys, and a clock that never goes back.
-- Key: clock  hash raw, offset, ms
local P, call = ARGV[1], redis.call
local now

-- Lua's own way to write a number loses digits after the fourteenth; -0 would be `-0`.
local function whole(n) return string.format('%.0f', n + 0) end

do
  local time = call('TIME')
  local raw = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  local seen = call('HMGET', P .. 'clock', 'raw', 'offset')
  local offset = tonumber(seen[2] or 0)
  local last = tonumber(seen[1] or raw)
  if raw < last then offset = offset + last - raw end
  call('HSET', P .. 'clock', 'raw', whole(raw), 'offset', whole(offset))
  now = raw + offset
end

