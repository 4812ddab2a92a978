-- Leases ready jobs of one queue: highest priority first, then oldest; of a paused queue only what was revoked.
-- KEYS: 1 ready, 2 wake, 3 messages, 4 jobs, 5 attempts, 6 leases of the owner, 7 owners, 8 paused, 9 doubt,
--       10 tombstones
-- ARGV: limit, owner, queue, the task to claim alone ('': any); then the names of tasks to leave out
-- Out: 1 if the server may have forgotten acks, + 2 if ids were revoked before they came; then each job: id, text, token, losses, refusals, revoked,
--      created, put there (µs), earlier attempts
local limit, owner, queue, only = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]
local most_bytes, most_passed = 8 * 1024 * 1024, 5000  -- of messages at a time; of jobs to look over for others
local paused = redis.call('SISMEMBER', KEYS[8], queue) == 1
local facts = redis.call('EXISTS', KEYS[9]) + 2 * redis.call('EXISTS', KEYS[10])
local ids, scores = {}, {}

-- What stands there of a job; nothing if that is missing or is no such thing, which must not hold up the queue.
local function standing(packed)
    local is_read, s = pcall(cmsgpack.unpack, packed or '')
    return is_read and type(s) == 'table' and #s > 10 and s or nil
end

local function take(found)
    for i = 1, #found, 2 do
        ids[#ids + 1], scores[#scores + 1] = found[i], tonumber(found[i + 1])
    end
end

local function take_but(refused)
    for offset = 0, most_passed - 1, 200 do
        local found = redis.call('ZRANGE', KEYS[1], offset, offset + 199, 'WITHSCORES')
        for i = 1, #found, 2 do
            local s = standing(redis.call('HGET', KEYS[4], found[i]))
            local is_left = (s and refused[s[11]]) or (only ~= '' and not (s and s[11] == only))
            if #ids < limit and not is_left then take({found[i], found[i + 1]}) end
        end
        if #ids >= limit or #found < 400 then break end
    end
end

if paused then
    take(redis.call('ZRANGE', KEYS[1], '-inf', '(0', 'BYSCORE', 'LIMIT', 0, limit, 'WITHSCORES'))
elseif #ARGV == 4 and only == '' then
    take(redis.call('ZRANGE', KEYS[1], 0, limit - 1, 'WITHSCORES'))
else
    local refused = {}
    for i = 5, #ARGV do refused[ARGV[i]] = true end
    take_but(refused)
end
local bytes, count = 0, 0
for _, id in ipairs(ids) do
    bytes = bytes + redis.call('HSTRLEN', KEYS[3], id)
    if count > 0 and bytes > most_bytes then break end
    count = count + 1
end
for i = #ids, count + 1, -1 do ids[i] = nil end
if #ids == 0 then return {facts} end
redis.call('ZREM', KEYS[1], unpack(ids))
local claimed, states, leases = {facts}, {}, {}
local texts, packed = redis.call('HMGET', KEYS[3], unpack(ids)), redis.call('HMGET', KEYS[4], unpack(ids))
local attempts = redis.call('EXISTS', KEYS[5]) == 1 and redis.call('HMGET', KEYS[5], unpack(ids)) or {}
for i, id in ipairs(ids) do
    local s = standing(packed[i]) or {queue, scores[i], 0, 0, 0, '', 0, 0, 0, 0, ''}
    s[3], s[6], s[7] = s[3] + 1, owner, 0
    states[#states + 1], states[#states + 2] = id, cmsgpack.pack(s)
    leases[#leases + 1], leases[#leases + 2] = id, string.format('%d %s', s[3], queue)
    claimed[#claimed + 1] = {id, texts[i], s[3], s[4], s[5], s[8], s[9], s[10], attempts[i] or false}
end
redis.call('HSET', KEYS[4], unpack(states))
redis.call('HSET', KEYS[6], unpack(leases))
redis.call('SADD', KEYS[7], owner)
-- So the next one wakes, but nobody by a paused queue. (Who leaves tasks to others does not wait for wake-ups.)
if not paused and redis.call('EXISTS', KEYS[1]) == 1 then
    redis.call('ZADD', KEYS[2], 0, '')
else
    redis.call('DEL', KEYS[2])
end
return claimed
