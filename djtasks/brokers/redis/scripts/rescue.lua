-- Takes back what a dead owner had leased. What had begun counts a loss, the rest goes back unharmed.
-- KEYS: 1 messages, 2 jobs, 3 attempts, 4 leases of the dead, 5 leases of the rescuer, 6 owners, 7 queues; then ready, wake of each queue
-- ARGV: the dead, the rescuer, losses allowed, whether somebody saw what ran, whether one loss is surely its own,
--       whether what had begun was ended on purpose, the number of queues, their names, the number of jobs that had begun,
--       id and token of each; then id and the attempt as JSON of each that was leased
-- Out: what must not run again, leased to the rescuer; in the form of a claim's
local dead, rescuer, allowed = ARGV[1], ARGV[2], tonumber(ARGV[3])
local known, alone, final = ARGV[4] == '1', ARGV[5] == '1', ARGV[6] == '1'
local queues, places, begun, ended = tonumber(ARGV[7]), {}, {}, {}
for i = 1, queues do places[ARGV[7 + i]] = 6 + 2 * i end
local first = 9 + queues + 2 * tonumber(ARGV[8 + queues])
for i = 9 + queues, first - 1, 2 do begun[ARGV[i]] = tonumber(ARGV[i + 1]) end

local function with_attempt(id, attempt)
    local earlier = redis.call('HGET', KEYS[3], id)
    redis.call('HSET', KEYS[3], id, earlier and earlier:sub(1, -2) .. ',' .. attempt .. ']' or '[' .. attempt .. ']')
end

local function end_it(id, s, losses)
    s[3], s[4], s[6] = s[3] + 1, s[4] + losses, rescuer
    redis.call('HSET', KEYS[5], id, string.format('%d %s', s[3], s[1]))
    redis.call('SADD', KEYS[6], rescuer)
    local text, attempts = redis.call('HGET', KEYS[1], id), redis.call('HGET', KEYS[3], id)
    ended[#ended + 1] = {id, text, s[3], s[4], s[5], s[8], s[9], s[10], attempts}
end

local function give_back(id, s)
    s[6], s[7] = '', 0
    redis.call('ZADD', KEYS[places[s[1]]], s[2], id)
    redis.call('ZADD', KEYS[places[s[1]] + 1], 0, '')
    redis.call('SADD', KEYS[7], s[1])
end

for i = first, #ARGV, 2 do
    local id = ARGV[i]
    redis.call('HDEL', KEYS[4], id)
    local packed = redis.call('HGET', KEYS[2], id)
    local s = packed and cmsgpack.unpack(packed)
    if s and s[6] == dead and places[s[1]] then
        local is_begun = begun[id] == s[3]
        local counts = s[7] == 1 or not known or is_begun
        if final and is_begun then
            end_it(id, s, 0)
        elseif counts and (s[7] == 1 or (s[4] + 1 >= allowed and alone)) then
            end_it(id, s, 1)
        else
            if counts then
                with_attempt(id, ARGV[i + 1])
                s[4] = s[4] + 1
            end
            give_back(id, s)
        end
        redis.call('HSET', KEYS[2], id, cmsgpack.pack(s))
    end
end
if redis.call('EXISTS', KEYS[4]) == 0 then redis.call('SREM', KEYS[6], dead) end
return ended
