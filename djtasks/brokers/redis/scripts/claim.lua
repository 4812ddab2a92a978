-- Leases ready jobs of these queues in their turn: highest priority first, then oldest; of a paused one what was revoked.
-- KEYS: 1 messages, 2 jobs, 3 attempts, 4 leases of the owner, 5 owners, 6 paused, 7 doubt, 8 tombstones;
--       then ready, wake of each queue
-- ARGV: limit, owner, the task to claim alone ('': any), the number of queues, their names; then tasks to leave out
-- Out: 1 if the server may have forgotten acks, + 2 if ids were revoked before they came; then each job: number of its
--      queue, id, text, token, losses, refusals, revoked, created, put there (µs), earlier attempts
local limit, owner, only, queues = tonumber(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])
local most_bytes, most_passed = 8 * 1024 * 1024, 5000  -- of messages at a time; of jobs to look over for others
local facts = redis.call('EXISTS', KEYS[7]) + 2 * redis.call('EXISTS', KEYS[8])
local has_attempts = redis.call('EXISTS', KEYS[3]) == 1
local claimed, bytes, refused = {facts}, 0, {}
for i = 5 + queues, #ARGV do refused[ARGV[i]] = true end
local takes_any = only == '' and next(refused) == nil

-- What stands there of a job; nothing if that is missing or is no such thing, which must not hold up the queue.
local function standing(packed)
    local is_read, s = pcall(cmsgpack.unpack, packed or '')
    return is_read and type(s) == 'table' and #s > 10 and s or nil
end

-- The first that may be claimed, as ZRANGE WITHSCORES gives them.
local function first(ready, room, paused)
    if paused then return redis.call('ZRANGE', ready, '-inf', '(0', 'BYSCORE', 'LIMIT', 0, room, 'WITHSCORES') end
    if takes_any then return redis.call('ZRANGE', ready, 0, room - 1, 'WITHSCORES') end
    local found = {}
    for offset = 0, most_passed - 1, 200 do
        local passed = redis.call('ZRANGE', ready, offset, offset + 199, 'WITHSCORES')
        for i = 1, #passed, 2 do
            local s = standing(redis.call('HGET', KEYS[2], passed[i]))
            local is_left = (s and refused[s[11]]) or (only ~= '' and not (s and s[11] == only))
            if #found < 2 * room and not is_left then
                found[#found + 1], found[#found + 2] = passed[i], passed[i + 1]
            end
        end
        if #found >= 2 * room or #passed < 400 then break end
    end
    return found
end

-- The ids and scores of those whose messages fit in one answer.
local function fitting(found)
    local ids, scores = {}, {}
    for i = 1, #found, 2 do
        bytes = bytes + redis.call('HSTRLEN', KEYS[1], found[i])
        if bytes > most_bytes and #claimed + #ids > 1 then break end
        ids[#ids + 1], scores[#scores + 1] = found[i], tonumber(found[i + 1])
    end
    return ids, scores
end

local function lease(number, queue, ids, scores)
    local states, leases = {}, {}
    local texts, packed = redis.call('HMGET', KEYS[1], unpack(ids)), redis.call('HMGET', KEYS[2], unpack(ids))
    local attempts = has_attempts and redis.call('HMGET', KEYS[3], unpack(ids)) or {}
    for i, id in ipairs(ids) do
        local s = standing(packed[i]) or {queue, scores[i], 0, 0, 0, '', 0, 0, 0, 0, ''}
        s[3], s[6], s[7] = s[3] + 1, owner, 0
        states[#states + 1], states[#states + 2] = id, cmsgpack.pack(s)
        leases[#leases + 1], leases[#leases + 2] = id, string.format('%d %s', s[3], queue)
        claimed[#claimed + 1] = {number, id, texts[i], s[3], s[4], s[5], s[8], s[9], s[10], attempts[i] or false}
    end
    redis.call('HSET', KEYS[2], unpack(states))
    redis.call('HSET', KEYS[4], unpack(leases))
    redis.call('SADD', KEYS[5], owner)
end

for number = 1, queues do
    local queue, ready, wake = ARGV[4 + number], KEYS[7 + 2 * number], KEYS[8 + 2 * number]
    local room = limit - #claimed + 1
    local paused = redis.call('SISMEMBER', KEYS[6], queue) == 1
    local ids, scores = {}, {}
    if room > 0 then ids, scores = fitting(first(ready, room, paused)) end
    if #ids > 0 then
        redis.call('ZREM', ready, unpack(ids))
        lease(number, queue, ids, scores)
    end
    -- So the next one wakes, but nobody by a paused queue. (Who leaves tasks to others does not wait for wake-ups.)
    -- The marker of a queue that was not looked into may have been taken for this claim.
    if (#ids > 0 or room <= 0) and not paused and redis.call('EXISTS', ready) == 1 then
        redis.call('ZADD', wake, 0, '')
    elseif #ids > 0 then
        redis.call('DEL', wake)
    end
end
return claimed
