-- Forgets the name of a queue in which nothing waits.
-- KEYS: 1 queues, 2 ready, 3 scheduled
-- ARGV: queue
if redis.call('EXISTS', KEYS[2], KEYS[3]) == 0 then redis.call('SREM', KEYS[1], ARGV[1]) end
