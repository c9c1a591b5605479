-- Keeps the slots ARGV[2..] for another ARGV[1] milliseconds, and adds those that were lost.
local t = redis.call('TIME')
local ends = string.format('%.0f', math.floor((t[1] * 1000000 + t[2]) / 1000) + ARGV[1])
for j = 2, #ARGV do redis.call('ZADD', KEYS[1], ends, ARGV[j]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
