-- Gives jobs of one queue slots of a rate. Whose slot is near stays leased; the others are scheduled for theirs.
-- KEYS: 1 jobs, 2 leases of the owner, 3 owners, 4 queues, 5 due, 6 scheduled, 7 limit, 8 line, 9 limits
-- ARGV: owner, queue, the limit, interval (µs), how many may stay leased, how near their slots must be, how long before
--       its slot another becomes ready, but not before, how near a slot must be that was given or has come (µs);
--       then of each: id, token, whether it had its turn (0, 1)
-- Out: whether the line was made for another rate, or by a clock that was put back since; then of each its slot and the
--      µs until then, -1 if it waits
local owner, queue, interval = ARGV[1], ARGV[2], tonumber(ARGV[4])
local most, ahead, lead, soon = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local last = tonumber(redis.call('HGET', KEYS[7], 'last') or 0)
local changed = tonumber(redis.call('HGET', KEYS[7], 'interval') or interval) ~= interval
local reserved, first, latest = {}, 10, now + tonumber(ARGV[9])
redis.call('ZREMRANGEBYSCORE', KEYS[9], '-inf', clock[1] - 86400)
local turned = last > latest
for i = first, #ARGV, 3 do
    reserved[ARGV[i]] = tonumber(redis.call('ZSCORE', KEYS[8], ARGV[i]) or nil)
    redis.call('ZREM', KEYS[8], ARGV[i])
    turned = turned or (reserved[ARGV[i]] or 0) > latest
end
if turned then reserved, last, changed = {}, math.min(last, now), true end
local answer = {changed and 1 or 0}

local function end_of_line()
    while true do
        local found = redis.call('ZRANGE', KEYS[8], -1, -1, 'WITHSCORES')
        if changed or not found[1] then return 0 end
        local packed = redis.call('HGET', KEYS[1], found[1])
        local s = packed and cmsgpack.unpack(packed)
        if s and s[6] == '' and s[8] == 0 then return tonumber(found[2]) end
        redis.call('ZREM', KEYS[8], found[1])  -- removed from its queue, cancelled, or run without
    end
end

local line = end_of_line()
for i = first, #ARGV, 3 do
    local id, slot = ARGV[i], math.max(now, last + interval)
    local packed = redis.call('HGET', KEYS[1], id)
    local s = packed and cmsgpack.unpack(packed)
    if reserved[id] then
        slot = math.max(slot, reserved[id])
    elseif ARGV[i + 2] == '0' and not (s and s[12] and s[12] ~= ARGV[3]) then  -- nor had its turn before a place
        slot = math.max(slot, line + interval)
    end
    answer[#answer + 1], answer[#answer + 2] = slot, -1
    if s and s[6] == owner and s[3] == tonumber(ARGV[i + 1]) then
        if slot <= now + ahead and most > 0 then
            last, most, answer[#answer] = slot, most - 1, slot - now
        else
            local is_revoked = s[8] == 1  -- since it was leased: it waits for nothing
            local at = is_revoked and now or math.max(slot - lead, now + soon)
            s[6], s[7], s[12] = '', 0, ARGV[3]
            if not is_revoked then line = math.max(line, slot) end
            redis.call('HDEL', KEYS[2], id)
            redis.call('HSET', KEYS[1], id, cmsgpack.pack(s))
            redis.call('ZADD', KEYS[6], at, id)
            redis.call('ZADD', KEYS[5], 'LT', at, queue)
            if not is_revoked then redis.call('ZADD', KEYS[8], slot, id) end
            redis.call('SADD', KEYS[4], queue)
        end
    end
end
redis.call('HSET', KEYS[7], 'last', last, 'interval', interval)
redis.call('EXPIRE', KEYS[7], 86400 + math.ceil(2 * interval / 1000000))
redis.call('ZADD', KEYS[9], clock[1], ARGV[3])
if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('SREM', KEYS[3], owner) end
return answer
