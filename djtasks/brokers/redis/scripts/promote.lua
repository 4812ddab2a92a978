-- Makes due jobs of one queue ready, as of the time at which they were due.
-- KEYS: 1 jobs, 2 due, 3 queues, 4 scheduled, 5 ready, 6 wake
-- ARGV: queue, limit
-- Out: how many
local width = 2 ^ 45
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local found = redis.call('ZRANGE', KEYS[4], '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[2], 'WITHSCORES')
for i = 1, #found, 2 do
    local id = found[i]
    local packed = redis.call('HGET', KEYS[1], id)
    local order = math.floor((found[i + 1] - 1704067200000000) / 64)
    local score = 100 * width + order
    redis.call('ZREM', KEYS[4], id)
    local is_read, state = pcall(cmsgpack.unpack, packed or '')
    if is_read and type(state) == 'table' and #state > 10 then
        score = state[2] - state[2] % width + order
        state[2] = score
        redis.call('HSET', KEYS[1], id, cmsgpack.pack(state))
    end
    redis.call('ZADD', KEYS[5], score, id)
end
local first = redis.call('ZRANGE', KEYS[4], 0, 0, 'WITHSCORES')
redis.call('ZREM', KEYS[2], ARGV[1])
if first[2] then redis.call('ZADD', KEYS[2], first[2], ARGV[1]) end
if #found > 0 then
    redis.call('SADD', KEYS[3], ARGV[1])
    redis.call('ZADD', KEYS[6], 0, '')
end
return #found / 2
