-- Raises the beat counters of workers that nobody has declared lost.
-- KEYS: 1 beats, 2 lost
-- ARGV: the workers
-- Out: those that live
local live = {}
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', redis.call('TIME')[1] - 86400)
for _, worker in ipairs(ARGV) do
    if not redis.call('ZSCORE', KEYS[2], worker) then
        redis.call('HINCRBY', KEYS[1], worker, 1)
        live[#live + 1] = worker
    end
end
return live
