-- Adds ARGV[1] to a quota's count, which begins with ARGV[2] where it is not known and is
-- kept for ARGV[3] milliseconds. It does not go below zero. Answer: the count.
local used = math.max(0, (tonumber(redis.call('GET', KEYS[1])) or tonumber(ARGV[2])) + tonumber(ARGV[1]))
redis.call('SET', KEYS[1], string.format('%.0f', used), 'PX', ARGV[3])
return used
