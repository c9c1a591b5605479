-- Charges all counts of one request, or none. One key per count, in one hash slot.
--
-- ARGV: 'take' or 'peek'; the caller's deadline in microseconds by this server's clock, after which
-- the script charges nothing, or 0 for none; then for each key the arguments of its kind:
--   r  signs n merge, then n times: perMicro each depth need extra hold hint back from
--   q  need extra limit seed carry keep
--   c  need extra limit keep n, then n names
-- Answer: 1 for taken, 0 for denied, 2 for after the deadline; this server's time; then
--   r  n times: the debt before, the tokens granted
--   q, c  the count before, the amount granted
--
-- Rates use the generic cell rate algorithm in whole units: one token adds `each` to the debt, and a
-- microsecond pays off `perMicro`. The time is this server's, so that machines whose clocks differ
-- count alike. After this clock was set back, the time of the last charge is used, so that no tokens
-- are minted. A stored rate count is the microsecond of the last charge and, for each rate, its sign,
-- its debt, and the time since which the bucket was not full. Returned tokens that were taken before
-- that time are ignored: the bucket has regained them already.
-- All numbers are integers below 2^53. A denied request writes nothing.
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local at = 0
local function arg()
  at = at + 1
  return ARGV[at]
end
local function num() return tonumber(arg()) end

-- convert moves the debts of a count whose stored rates differ from the current ones: each current
-- rate takes over the debt of the matching stored rate, as the same number of tokens.
local function convert(stored, elapsed, signs, rates)
  local old = {}
  for sign, debt in string.gmatch(stored, '([%d:]+)=(%d+)@%d+') do
    local period, limit, burst, each, micro = string.match(sign, '^(%d+):(%d+):(%d+):(%d+):(%d+)$')
    old[#old + 1] = {sign = sign, period = period, spent = math.max(0, tonumber(debt) - elapsed * micro) / each}
  end
  local new, i = {}, 0
  for sign in string.gmatch(signs, '[%d:]+') do
    i = i + 1
    new[i] = {sign = sign, period = string.match(sign, '^%d+')}
  end
  local matches = {
    function(a, b) return a.sign == b.sign end,
    function(a, b) return a.period == b.period end,
    function(_, _, j, k) return j == k end,
    function() return true end,
  }
  for _, match in ipairs(matches) do
    for j, b in ipairs(new) do
      for k, a in ipairs(old) do
        if not b.from and not a.taken and match(a, b, j, k) then
          b.from, a.taken = a, true
        end
      end
    end
  end
  for j, b in ipairs(new) do
    local r = rates[j]
    r.debt = b.from and math.min(r.depth, math.ceil(b.from.spent * r.each)) or 0
  end
end

local take = arg() == 'take'
local late = num()
if late > 0 and now > late then return {2, now} end
local taken = true
local counts = {}
for i, key in ipairs(KEYS) do
  local c = {kind = arg(), key = key}
  counts[i] = c
  if c.kind == 'r' then
    c.signs = arg()
    local n, merge = num(), arg() == '1'
    local rates = {}
    for j = 1, n do
      rates[j] = {micro = num(), each = num(), depth = num(), need = num(), extra = num(), hold = num(), hint = num(),
        back = num(), from = num(), debt = 0, base = now}
    end
    c.rates, c.at = rates, now
    local stored = redis.call('GET', key)
    if stored then
      local last, rest = string.match(stored, '^(%d+)|(.*)$')
      last = tonumber(last)
      if last > now then c.at = last end
      local elapsed, j = c.at - last, 0
      local debts, bases = {}, {}
      for sign, debt, base in string.gmatch(rest, '([%d:]+)=(%d+)@(%d+)') do
        j = j + 1
        debts[j], bases[j] = debt, tonumber(base)
      end
      local signs = string.gsub(rest, '=%d+@%d+', '')
      if j == n and signs == c.signs then
        for k = 1, n do
          local r = rates[k]
          r.debt, r.base = math.max(0, debts[k] - elapsed * r.micro), bases[k]
          if r.back > 0 and r.from >= r.base then
            r.debt = math.max(0, r.debt - r.back * r.each)
          end
        end
      else
        convert(rest, elapsed, c.signs, rates)
      end
    end
    for _, r in ipairs(rates) do
      if merge or not stored then r.debt = math.max(r.debt, r.hint) end
      if r.need > 0 and r.debt + r.need * r.each > r.depth then taken = false end
    end
  elseif c.kind == 'q' then
    c.need, c.extra, c.limit = num(), num(), num()
    local seed, carry = num(), num()
    c.keep = arg()
    c.used = math.max(0, (tonumber(redis.call('GET', key)) or seed) + carry)
    if c.need > 0 and c.used > c.limit - c.need then taken = false end
  else
    c.need, c.extra, c.limit, c.keep = num(), num(), num(), num()
    c.names = {}
    for j = 1, num() do c.names[j] = arg() end
    local ms = math.floor(now / 1000)
    c.used = redis.call('ZCOUNT', key, '(' .. string.format('%.0f', ms), '+inf')
    if c.need > 0 and c.used >= c.limit then taken = false end
  end
end

local answer = {taken and 1 or 0, now}
for _, c in ipairs(counts) do
  if c.kind == 'r' then
    local parts, left = {}, 0
    local sign = string.gmatch(c.signs, '[%d:]+')
    for j, r in ipairs(c.rates) do
      local granted, debt = 0, r.debt
      if taken then
        granted = r.need
        if debt <= 0 then r.base = c.at end
        if r.extra > 0 then
          -- Extra tokens may be spent as late as the end of their hold.
          local from = math.max(debt, r.hold)
          local extra = math.min(r.extra, math.floor((r.depth - from) / r.each) - r.need)
          if extra > 0 then
            if from > debt then r.base = c.at end
            granted, debt = granted + extra, from
          end
        end
        debt = debt + granted * r.each
      end
      answer[#answer + 1] = r.debt
      answer[#answer + 1] = granted
      parts[j] = sign() .. '=' .. string.format('%.0f', debt) .. '@' .. string.format('%.0f', r.base)
      left = math.max(left, debt / r.micro)
    end
    if take and taken then
      -- The key expires a second after the bucket is full: a missing key means a full bucket.
      redis.call('SET', c.key, string.format('%.0f', c.at) .. '|' .. table.concat(parts, ','),
        'PX', string.format('%.0f', math.ceil((left + c.at - now) / 1000) + 1000))
    end
  elseif c.kind == 'q' then
    local granted = 0
    if taken then
      granted = c.need + math.max(0, math.min(c.extra, c.limit - c.used - c.need))
      if take then
        redis.call('SET', c.key, string.format('%.0f', c.used + granted), 'PX', c.keep)
      end
    end
    answer[#answer + 1] = c.used
    answer[#answer + 1] = granted
  else
    local granted = 0
    if taken then
      granted = c.need + math.max(0, math.min(c.extra, c.limit - c.used - c.need))
      if take and granted > 0 then
        local ms = math.floor(now / 1000)
        redis.call('ZREMRANGEBYSCORE', c.key, '-inf', string.format('%.0f', ms))
        local ends = string.format('%.0f', ms + c.keep)
        for j = 1, granted do redis.call('ZADD', c.key, ends, c.names[j]) end
        redis.call('PEXPIRE', c.key, string.format('%.0f', c.keep))
      end
    end
    answer[#answer + 1] = c.used
    answer[#answer + 1] = granted
  end
end
return answer
