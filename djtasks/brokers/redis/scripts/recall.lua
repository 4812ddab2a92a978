-- Tells what waits for a limit, first come first.
-- KEYS: 1 jobs, 2 line
-- ARGV: how many
-- Out: ids and queues, one after another
local found = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, ARGV[1] - 1)) do
    local packed = redis.call('HGET', KEYS[1], id)
    if packed then
        found[#found + 1], found[#found + 2] = id, cmsgpack.unpack(packed)[1]
    else
        redis.call('ZREM', KEYS[2], id)
    end
end
return found
