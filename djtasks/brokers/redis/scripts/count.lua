-- Counts the members of each ZSET.
-- KEYS: any number of them
local counts = {}
for i, key in ipairs(KEYS) do counts[i] = redis.call('ZCARD', key) end
return counts
