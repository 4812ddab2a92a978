-- Removes what waits in a queue, up to a limit, ready or scheduled.
-- KEYS: 1 messages, 2 jobs, 3 attempts, 4 due, 5 ready, 6 scheduled, 7 wake
-- ARGV: queue, limit
-- Out: how many
local count = 0
for _, key in ipairs({KEYS[5], KEYS[6]}) do
    local ids = redis.call('ZRANGE', key, 0, ARGV[2] - 1)
    if #ids > 0 then
        redis.call('ZREM', key, unpack(ids))
        for hash = 1, 3 do redis.call('HDEL', KEYS[hash], unpack(ids)) end
        count = count + #ids
    end
end
if redis.call('EXISTS', KEYS[6]) == 0 then redis.call('ZREM', KEYS[4], ARGV[1]) end
redis.call('DEL', KEYS[7])
return count
