-- Sets the default priorities of all queues.
-- KEYS: 1 defaults
-- ARGV: queue, priority of each
redis.call('DEL', KEYS[1])
if #ARGV > 0 then redis.call('HSET', KEYS[1], unpack(ARGV)) end
