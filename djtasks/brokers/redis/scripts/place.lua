-- Tells in which queue jobs are, waiting or leased.
-- KEYS: 1 jobs
-- ARGV: ids
-- Out: the queue of each, "" of an unknown one
local queues = {}
for i, id in ipairs(ARGV) do
    local packed = redis.call('HGET', KEYS[1], id)
    queues[i] = packed and cmsgpack.unpack(packed)[1] or ''
end
return queues
