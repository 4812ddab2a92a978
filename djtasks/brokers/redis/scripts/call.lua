-- Makes jobs of one queue ready that waited for a limit, at their old place in the order.
-- KEYS: 1 jobs, 2 queues, 3 scheduled, 4 ready, 5 wake, 6 line, 7 called
-- ARGV: queue; then ids
-- Out: how many
local clock = redis.call('TIME')
local now, count = clock[1] * 1000000 + clock[2], 0
for i = 2, #ARGV do
    local id = ARGV[i]
    redis.call('ZREM', KEYS[6], id)
    local packed = redis.call('HGET', KEYS[1], id)
    local s = packed and cmsgpack.unpack(packed)
    if s and s[1] == ARGV[1] and s[6] == '' and redis.call('ZREM', KEYS[3], id) == 1 then
        redis.call('ZADD', KEYS[4], s[2], id)
        redis.call('ZADD', KEYS[5], 0, '')
        redis.call('ZADD', KEYS[7], now, id)
        count = count + 1
    end
end
if count > 0 then
    redis.call('EXPIRE', KEYS[7], 60)
    redis.call('SADD', KEYS[2], ARGV[1])
end
return count
