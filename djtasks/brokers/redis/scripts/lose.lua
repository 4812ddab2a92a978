-- Declares a worker lost, if its beat still stands at that count.
-- KEYS: 1 beats, 2 lost
-- ARGV: worker, beat
-- Out: 1 if so
if tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0) ~= tonumber(ARGV[2]) then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[2], redis.call('TIME')[1], ARGV[1])
return 1
