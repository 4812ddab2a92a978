-- Raises ready jobs of one queue by a step of priority for each time that they have waited: the oldest of each priority.
-- What stands in the state stays, so a job that comes back begins where it was sent.
-- KEYS: 1 ready, 2 jobs
-- ARGV: that time (µs), how many of each priority
-- Out: how many were raised
local width, step = 2 ^ 45, ARGV[1] / 64
local clock = redis.call('TIME')
local now = math.floor((clock[1] * 1000000 + clock[2] - 1704067200000000) / 64)
local count, level = 0, 1  -- nothing is raised above the highest priority
while true do
    local first = redis.call('ZRANGE', KEYS[1], level * width, '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')
    if not first[1] then return count end
    level = math.floor(first[2] / width)
    local oldest = redis.call('ZRANGE', KEYS[1], level * width, level * width + now - step, 'BYSCORE',
        'LIMIT', 0, ARGV[2], 'WITHSCORES')
    for i = 1, #oldest, 2 do
        local id, order = oldest[i], oldest[i + 1] % width
        local packed = redis.call('HGET', KEYS[2], id)
        local sent_at = packed and math.floor(cmsgpack.unpack(packed)[2] / width) or level
        local wanted = math.max(0, sent_at - math.floor((now - order) / step))
        if wanted < level then
            redis.call('ZREM', KEYS[1], id)
            redis.call('ZADD', KEYS[1], wanted * width + order, id)
            count = count + 1
        end
    end
    level = level + 1
end
