-- Takes in jobs that have been leased by their rows, as by a first claim; ids that are known here stay as they are.
-- KEYS: 1 messages, 2 jobs, 3 leases of the owner, 4 owners, 5 clock, 6 tombstones
-- ARGV: owner; then for each job: id, text, queue, 100 − priority, task
local width = 2 ^ 45
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local order = math.max(math.floor((now - 1704067200000000) / 64), (tonumber(redis.call('GET', KEYS[5])) or 0) + 1)
local buried = redis.call('EXISTS', KEYS[6]) == 1
for i = 2, #ARGV, 5 do
    local id, queue, score = ARGV[i], ARGV[i + 2], tonumber(ARGV[i + 3]) * width + order
    if redis.call('HEXISTS', KEYS[2], id) == 0 then
        local revoked = buried and redis.call('ZSCORE', KEYS[6], id) and 1 or 0
        redis.call('HSET', KEYS[1], id, ARGV[i + 1])
        redis.call('HSET', KEYS[2], id,
            cmsgpack.pack({queue, score, 1, 0, 0, ARGV[1], 0, revoked, now, now, ARGV[i + 4]}))
        redis.call('HSET', KEYS[3], id, '1 ' .. queue)
        redis.call('SADD', KEYS[4], ARGV[1])
        order = order + 1
    end
end
redis.call('SET', KEYS[5], string.format('%.0f', order - 1))
return redis.status_reply('OK')
