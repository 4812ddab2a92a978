-- A job that did not begin leaves its slot, if it was the last that was given, and keeps its turn.
-- KEYS: 1 limit, 2 line
-- ARGV: id, slot, interval (µs)
redis.call('ZREM', KEYS[2], ARGV[1])
if tonumber(redis.call('HGET', KEYS[1], 'last') or 0) == tonumber(ARGV[2]) then
    redis.call('HSET', KEYS[1], 'last', tonumber(ARGV[2]) - tonumber(ARGV[3]))
end
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
