-- Names queues that have scheduled jobs whose time has come.
-- KEYS: 1 due
-- ARGV: limit
local clock = redis.call('TIME')
return redis.call('ZRANGE', KEYS[1], '-inf', clock[1] * 1000000 + clock[2], 'BYSCORE', 'LIMIT', 0, ARGV[1])
