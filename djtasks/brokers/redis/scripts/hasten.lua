-- Lets scheduled jobs of one queue be due now, to be promoted.
-- KEYS: 1 due, 2 scheduled
-- ARGV: queue; then ids
-- Out: the ids of those that were scheduled
local clock, made = redis.call('TIME'), {}
local now = clock[1] * 1000000 + clock[2]
for i = 2, #ARGV do
    if redis.call('ZREM', KEYS[2], ARGV[i]) == 1 then
        redis.call('ZADD', KEYS[2], now, ARGV[i])
        made[#made + 1] = ARGV[i]
    end
end
if #made > 0 then redis.call('ZADD', KEYS[1], 'LT', now, ARGV[1]) end
return made
