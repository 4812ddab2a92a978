-- Puts a message in the place of one that waits, under the same id: its arguments, its time.
-- KEYS: 1 messages, 2 jobs, 3 queues, 4 due, 5 clock, 6 defaults, 7 ready, 8 scheduled, 9 wake
-- ARGV: id, queue, text, 100 − priority, time (as for enqueue), whether somebody chose the priority (0, 1)
-- Out: 1 if it waited there
local id, queue, text, rank, time = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local packed = redis.call('HGET', KEYS[2], id)
local s = packed and cmsgpack.unpack(packed)
if not s or s[6] ~= '' or s[8] == 1 or s[1] ~= queue then return 0 end
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local order = math.max(math.floor((now - 1704067200000000) / 64), (tonumber(redis.call('GET', KEYS[5])) or 0) + 1)
redis.call('ZREM', KEYS[7], id)
redis.call('ZREM', KEYS[8], id)
local default = ARGV[6] == '0' and redis.call('HGET', KEYS[6], queue)
if default then text, rank = text:sub(1, -2) .. ',"priority":' .. default .. '}', 100 - default end
s[2], s[10], s[12] = rank * 2 ^ 45 + order, now, nil
local at = time == '' and 0 or tonumber(time:sub(2)) + (time:sub(1, 1) == '+' and now or 0)
if at > now then
    redis.call('ZADD', KEYS[8], at, id)
    redis.call('ZADD', KEYS[4], 'LT', at, queue)
else
    redis.call('ZADD', KEYS[7], s[2], id)
    redis.call('ZADD', KEYS[9], 0, '')
end
redis.call('HSET', KEYS[1], id, text)
redis.call('HSET', KEYS[2], id, cmsgpack.pack(s))
redis.call('SADD', KEYS[3], queue)
redis.call('SET', KEYS[5], string.format('%.0f', order))
return 1
