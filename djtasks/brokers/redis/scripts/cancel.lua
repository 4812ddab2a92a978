-- Flags jobs of one queue as revoked and makes the waiting ones ready at once, before all others.
-- KEYS: 1 jobs, 2 queues, 3 ready, 4 scheduled, 5 wake
-- ARGV: queue; then ids
-- Out: how many
local queue, width, count = ARGV[1], 2 ^ 45, 0
for i = 2, #ARGV do
    local id = ARGV[i]
    redis.call('ZREM', KEYS[4], id)
    local packed = redis.call('HGET', KEYS[1], id)
    local state = packed and cmsgpack.unpack(packed)
    if state and state[1] == queue then
        state[2], state[8] = state[2] % width - width, 1
        if state[6] == '' then
            redis.call('ZADD', KEYS[3], state[2], id)
            redis.call('ZADD', KEYS[5], 0, '')
            redis.call('SADD', KEYS[2], queue)
        end
        redis.call('HSET', KEYS[1], id, cmsgpack.pack(state))
        count = count + 1
    end
end
return count
