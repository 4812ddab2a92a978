-- Lets go of unique keys, each if it still is that job's and need not be kept for a time.
-- KEYS: 1 unique
-- ARGV: whether to keep those that have a time to go (0, 1); then key, id of each
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
for i = 2, #ARGV, 2 do
    local held = redis.call('HGET', KEYS[1], ARGV[i])
    local holder, lasts = (held or ''):match('^(.*) (%d+)$')
    if holder == ARGV[i + 1] and (ARGV[1] == '0' or tonumber(lasts) <= now) then redis.call('HDEL', KEYS[1], ARGV[i]) end
end
return redis.status_reply('OK')
