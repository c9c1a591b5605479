-- Gives back tokens that were just taken. ARGV: the number of rates, then for each its sign and the
-- number of units.
local stored = redis.call('GET', KEYS[1])
if not stored then return 0 end
local last, rest = string.match(stored, '^(%d+)|(.*)$')
local less = {}
for j = 1, tonumber(ARGV[1]) do less[ARGV[2 * j]] = tonumber(ARGV[2 * j + 1]) end
local parts = {}
for sign, debt, base in string.gmatch(rest, '([%d:]+)=(%d+)(@%d+)') do
  parts[#parts + 1] = sign .. '=' .. string.format('%.0f', math.max(0, tonumber(debt) - (less[sign] or 0))) .. base
end
redis.call('SET', KEYS[1], last .. '|' .. table.concat(parts, ','), 'KEEPTTL')
return 1
