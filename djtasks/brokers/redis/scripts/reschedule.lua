-- Puts each message in the place of its delivery, under the same id, and drops the lease.
-- KEYS: 1 messages, 2 jobs, 3 attempts, 4 leases of the owner, 5 owners, 6 queues, 7 due, 8 clock, 9 ready, 10 scheduled, 11 wake,
--       12 defaults
-- ARGV: owner, queue; then of each: id, token, text, 100 − priority, time (as for enqueue), task, earlier attempts,
--       whether somebody chose the priority (0, 1)
local owner, queue = ARGV[1], ARGV[2]
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local order = math.max(math.floor((now - 1704067200000000) / 64), (tonumber(redis.call('GET', KEYS[8])) or 0) + 1)
local default = redis.call('HGET', KEYS[12], queue)
for i = 3, #ARGV, 8 do
    local id, time = ARGV[i], ARGV[i + 4]
    local packed = redis.call('HGET', KEYS[2], id)
    local state = packed and cmsgpack.unpack(packed)
    redis.call('HDEL', KEYS[4], id)
    if state and state[6] == owner and state[3] == tonumber(ARGV[i + 1]) then
        local at = time == '' and 0 or tonumber(time:sub(2)) + (time:sub(1, 1) == '+' and now or 0)
        local text, rank = ARGV[i + 2], tonumber(ARGV[i + 3])
        if default and ARGV[i + 7] == '0' then text, rank = text:sub(1, -2) .. ',"priority":' .. default .. '}', 100 - default end
        local score = (state[8] == 1 and -1 or rank) * 2 ^ 45 + order
        if at > now and state[8] == 0 then
            redis.call('ZADD', KEYS[10], at, id)
            redis.call('ZADD', KEYS[7], 'LT', at, queue)
        else
            redis.call('ZADD', KEYS[9], score, id)
            redis.call('ZADD', KEYS[11], 0, '')
        end
        redis.call('HSET', KEYS[1], id, text)
        redis.call('HSET', KEYS[2], id,
            cmsgpack.pack({queue, score, state[3], 0, state[5], '', 0, state[8], state[9], now, ARGV[i + 5]}))
        if ARGV[i + 6] ~= '[]' then redis.call('HSET', KEYS[3], id, ARGV[i + 6]) end
        redis.call('SADD', KEYS[6], queue)
        order = order + 1
    end
end
redis.call('SET', KEYS[8], string.format('%.0f', order - 1))
if redis.call('EXISTS', KEYS[4]) == 0 then redis.call('SREM', KEYS[5], owner) end
return redis.status_reply('OK')
