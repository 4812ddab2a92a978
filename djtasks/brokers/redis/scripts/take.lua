-- Gives jobs of one queue places under a limit. The others wait, without a time, until one is free.
-- KEYS: 1 jobs, 2 leases of the owner, 3 owners, 4 queues, 5 due, 6 scheduled, 7 limit, 8 line, 9 limits, 10 holders,
--       11 called, 12 limits with a line
-- ARGV: owner, queue, the limit, places, how many to take at most, in how many µs others may take what is left; then id,
--       token of each
-- Out: how many places are free for those in the line; then the ids of those that have got one
local owner, queue, places, most = ARGV[1], ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local soon_at = now + tonumber(ARGV[6])
redis.call('ZREMRANGEBYSCORE', KEYS[9], '-inf', clock[1] - 86400)
local called = {}
for i = 7, #ARGV, 2 do
    redis.call('SREM', KEYS[10], ARGV[i])
    called[ARGV[i]] = redis.call('ZREM', KEYS[11], ARGV[i]) == 1 or redis.call('ZSCORE', KEYS[8], ARGV[i])
end
local free, taken, parked = math.max(0, places - redis.call('SCARD', KEYS[10])), {}, false
local owed = redis.call('ZCARD', KEYS[11]) + redis.call('ZCARD', KEYS[8])
for i = 7, #ARGV, 2 do if called[ARGV[i]] and redis.call('ZSCORE', KEYS[8], ARGV[i]) then owed = owed - 1 end end
for i = 7, #ARGV, 2 do
    local id = ARGV[i]
    local packed = redis.call('HGET', KEYS[1], id)
    local s = packed and cmsgpack.unpack(packed)
    if s and s[6] == owner and s[3] == tonumber(ARGV[i + 1]) then
        local may = free > 0 and (called[id] or free > owed)
        if may and #taken < most then
            taken[#taken + 1] = id
            redis.call('ZREM', KEYS[8], id)
            redis.call('SADD', KEYS[10], id)
        else
            local is_revoked = s[8] == 1  -- since it was leased: it waits for nothing, and nobody would call it
            local at = is_revoked and now or may and soon_at or '+inf'
            s[6], s[7], s[12] = '', 0, ARGV[3]
            redis.call('HDEL', KEYS[2], id)
            redis.call('HSET', KEYS[1], id, cmsgpack.pack(s))
            redis.call('ZADD', KEYS[6], at, id)
            redis.call('ZADD', KEYS[5], 'LT', at, queue)
            redis.call('SADD', KEYS[4], queue)
            if not is_revoked then
                redis.call('ZADD', KEYS[8], 'NX', s[2], id)
                redis.call('SADD', KEYS[12], ARGV[3])
                parked = parked or not may
            end
        end
        if may then free = free - 1 end
    end
end
redis.call('HSET', KEYS[7], 'places', places)
redis.call('EXPIRE', KEYS[7], 86400 * 366)
redis.call('ZADD', KEYS[9], clock[1], ARGV[3])
if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('SREM', KEYS[3], owner) end
return {parked and free or 0, unpack(taken)}
