-- Resets counts. ARGV, for each key:
--   r  n, then n times: a rate's sign, and 1 where it is reset
--   q  keep
-- A reset count is written, not deleted: a missing count would look lost, and begin with the debt or
-- count that some process remembers.
local at = 0
local function arg()
  at = at + 1
  return ARGV[at]
end
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000000 + t[2])
for _, key in ipairs(KEYS) do
  if arg() == 'r' then
    local n = tonumber(arg())
    local stored = redis.call('GET', key) or ''
    local last, rest = string.match(stored, '^(%d+)|(.*)$')
    if not last then last, rest = now, '' end
    local debts = {}
    for sign, debt in string.gmatch(rest, '([%d:]+)=(%d+@%d+)') do debts[sign] = debt end
    local parts, most = {}, 0
    for j = 1, n do
      local sign, reset = arg(), arg() == '1'
      local debt = (not reset) and debts[sign] or ('0@' .. now)
      parts[j] = sign .. '=' .. debt
      local each, micro = string.match(sign, ':(%d+):(%d+)$')
      local burst = string.match(sign, '^%d+:%d+:(%d+)')
      most = math.max(most, burst * each / micro)
    end
    redis.call('SET', key, last .. '|' .. table.concat(parts, ','),
      'PX', string.format('%.0f', math.min(math.ceil(most / 1000) + 1000, 400 * 86400000)))
  else
    redis.call('SET', key, '0', 'PX', arg())
  end
end
return 1
