-- Adds ARGV[1] to a quota's count, which does not fall below zero. A missing count begins at ARGV[2].
-- The count is kept for ARGV[3] milliseconds. Answer: the new count.
local used = math.max(0, (tonumber(redis.call('GET', KEYS[1])) or tonumber(ARGV[2])) + tonumber(ARGV[1]))
redis.call('SET', KEYS[1], string.format('%.0f', used), 'PX', ARGV[3])
return used
