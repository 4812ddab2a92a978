-- How many microseconds it is until the first scheduled job is due; nil if none is scheduled.
-- KEYS: 1 due
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if not first[2] then return false end
local clock = redis.call('TIME')
return first[2] - clock[1] * 1000000 - clock[2]
