-- Makes scheduled jobs of one queue ready, as of now.
-- KEYS: 1 jobs, 2 due, 3 queues, 4 scheduled, 5 ready, 6 wake
-- ARGV: queue; then ids
-- Out: the ids of those that were scheduled
local width, made = 2 ^ 45, {}
local clock = redis.call('TIME')
local order = math.floor((clock[1] * 1000000 + clock[2] - 1704067200000000) / 64)
for i = 2, #ARGV do
    local id = ARGV[i]
    local packed = redis.call('ZSCORE', KEYS[4], id) and redis.call('HGET', KEYS[1], id)
    if packed then
        local state = cmsgpack.unpack(packed)
        state[2] = state[2] - state[2] % width + order
        redis.call('ZREM', KEYS[4], id)
        redis.call('HSET', KEYS[1], id, cmsgpack.pack(state))
        redis.call('ZADD', KEYS[5], state[2], id)
        made[#made + 1] = id
    end
end
local first = redis.call('ZRANGE', KEYS[4], 0, 0, 'WITHSCORES')
redis.call('ZREM', KEYS[2], ARGV[1])
if first[2] then redis.call('ZADD', KEYS[2], first[2], ARGV[1]) end
if #made > 0 then
    redis.call('SADD', KEYS[3], ARGV[1])
    redis.call('ZADD', KEYS[6], 0, '')
end
return made
