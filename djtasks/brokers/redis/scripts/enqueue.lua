-- Puts messages in their queues; a taken id is left as it is, unless its lease is that of a run which has ended for good.
-- So is a unique key, while the job that has it waits or runs, or for its time.
-- A priority that nobody chose gives way to the queue's; JSON takes the last of two values.
-- KEYS: 1 messages, 2 jobs, 3 queues, 4 due, 5 clock, 6 tombstones, 7 defaults, 8 unique; then ready, scheduled, wake
--       of each queue
-- ARGV: the number of queues, their names; then for each message: id, text, number of its queue, 100 − priority,
--       time ("" now, "@" µs since 1970, "+" µs from now), task, claims made of the id before, whether somebody chose
--       the priority (0, 1), unique key ("" none), for how long (µs)
-- Out: id and the id of the job that has its key, of each that was not taken
local width = 2 ^ 45
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local order = math.max(math.floor((now - 1704067200000000) / 64), (tonumber(redis.call('GET', KEYS[5])) or 0) + 1)
local buried = redis.call('EXISTS', KEYS[6]) == 1
local queues, defaults = tonumber(ARGV[1]), redis.call('EXISTS', KEYS[7]) == 1

local function is_taken(id, claims)
    local packed = redis.call('HGET', KEYS[2], id)
    if not packed then return false end
    local state = cmsgpack.unpack(packed)
    return claims == 0 or state[6] == '' or claims < state[3]
end

local function holder_of(unique, id)
    local held, lasts = (redis.call('HGET', KEYS[8], unique) or ''):match('^(.*) (%d+)$')
    return held and held ~= id and (tonumber(lasts) > now or redis.call('HEXISTS', KEYS[2], held) == 1) and held
end

local dropped = {}
for i = queues + 2, #ARGV, 10 do
    local id, number, time, claims = ARGV[i], tonumber(ARGV[i + 2]), ARGV[i + 4], tonumber(ARGV[i + 6])
    local unique = ARGV[i + 8]
    local holder = unique ~= '' and holder_of(unique, id)
    if holder then
        dropped[#dropped + 1], dropped[#dropped + 2] = id, holder
    elseif not is_taken(id, claims) then
        local queue, keys = ARGV[1 + number], 6 + 3 * number
        local text, rank = ARGV[i + 1], tonumber(ARGV[i + 3])
        local default = defaults and ARGV[i + 7] == '0' and redis.call('HGET', KEYS[7], queue)
        if default then text, rank = text:sub(1, -2) .. ',"priority":' .. default .. '}', 100 - default end
        local revoked = buried and redis.call('ZSCORE', KEYS[6], id) and 1 or 0
        local score = (revoked == 1 and -1 or rank) * width + order
        local at = time == '' and 0 or tonumber(time:sub(2)) + (time:sub(1, 1) == '+' and now or 0)
        if at > now and revoked == 0 then
            redis.call('ZADD', KEYS[keys + 1], at, id)
            redis.call('ZADD', KEYS[4], 'LT', at, queue)
        else
            redis.call('ZADD', KEYS[keys], score, id)
            redis.call('ZADD', KEYS[keys + 2], 0, '')
        end
        redis.call('HSET', KEYS[1], id, text)
        redis.call('HSET', KEYS[2], id,
            cmsgpack.pack({queue, score, claims, 0, 0, '', 0, revoked, now, now, ARGV[i + 5]}))
        if unique ~= '' then
            redis.call('HSET', KEYS[8], unique, string.format('%s %.0f', id, ARGV[i + 9] == '0' and 0 or now + ARGV[i + 9]))
        end
        order = order + 1
    end
end
redis.call('SADD', KEYS[3], unpack(ARGV, 2, queues + 1))
redis.call('SET', KEYS[5], string.format('%.0f', order - 1))
return dropped
