-- Ends a pause, and wakes somebody if something waits.
-- KEYS: 1 paused, 2 ready, 3 wake
-- ARGV: queue
redis.call('SREM', KEYS[1], ARGV[1])
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('ZADD', KEYS[3], 0, '') end
