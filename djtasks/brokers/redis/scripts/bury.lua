-- Remembers for a day that unknown ids are revoked.
-- KEYS: 1 jobs, 2 tombstones
-- ARGV: ids
-- Out: the queue of each, "" of an unknown one
local queues, now = {}, redis.call('TIME')[1]
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
for i, id in ipairs(ARGV) do
    local packed = redis.call('HGET', KEYS[1], id)
    queues[i] = packed and cmsgpack.unpack(packed)[1] or ''
    if not packed then redis.call('ZADD', KEYS[2], now + 86400, id) end
end
return queues
