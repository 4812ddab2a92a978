-- Frees places under a limit, and tells who is to have those that are free. What waits no more leaves the line.
-- KEYS: 1 jobs, 2 limit, 3 line, 4 holders, 5 called, 6 limits with a line
-- ARGV: the limit, whether to look if the holders still run (0, 1), how many to call at most; whether those come again
--       whose places are free (0, 1), their ids
-- Out: ids and queues, one after another
local clock = redis.call('TIME')
local now, found = clock[1] * 1000000 + clock[2], {}

local function state_of(id)
    local packed = redis.call('HGET', KEYS[1], id)
    return packed and cmsgpack.unpack(packed)
end

redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now - 5000000)  -- called, but something has come between
redis.call('ZREMRANGEBYSCORE', KEYS[5], now + 5000000, '+inf')  -- the clock was put back
for i = 5, #ARGV do
    redis.call('SREM', KEYS[4], ARGV[i])
    if ARGV[4] == '1' then redis.call('ZADD', KEYS[5], now, ARGV[i]) end
end

local function forget_if_unused()
    if redis.call('EXISTS', KEYS[3]) == 0 then redis.call('SREM', KEYS[6], ARGV[1]) end
    if redis.call('EXISTS', KEYS[3], KEYS[4], KEYS[5]) == 0 then redis.call('DEL', KEYS[2]) end
    return found
end

if ARGV[2] == '1' then
    for _, id in ipairs(redis.call('SMEMBERS', KEYS[4])) do
        local s = state_of(id)
        if not s or s[6] == '' then redis.call('SREM', KEYS[4], id) end
    end
end
if redis.call('SISMEMBER', KEYS[6], ARGV[1]) == 0 then return forget_if_unused() end
local places = tonumber(redis.call('HGET', KEYS[2], 'places') or 500)
local free = math.min(places - redis.call('SCARD', KEYS[4]) - redis.call('ZCARD', KEYS[5]), tonumber(ARGV[3]))
local offset = 0
while #found / 2 < free do
    local id = redis.call('ZRANGE', KEYS[3], offset, offset)[1]
    if not id then break end
    local s = state_of(id)
    if s and s[6] == '' and s[8] == 0 then
        found[#found + 1], found[#found + 2] = id, s[1]
        offset = offset + 1
    else
        redis.call('ZREM', KEYS[3], id)
    end
end
return forget_if_unused()
