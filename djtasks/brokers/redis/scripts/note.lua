-- Notes a word, for some seconds or for good.
-- KEYS: 1 where
-- ARGV: the word, seconds (0: for good)
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1])
if tonumber(ARGV[2]) > 0 then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
