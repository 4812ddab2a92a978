-- Moves jobs that are ready, or scheduled, to another queue; each keeps its place in the order.
-- KEYS: 1 messages, 2 jobs, 3 queues, 4 due, 5 ready or scheduled of the one, 6 of the other; 7 wake of the other
-- ARGV: the one, the other, how each stands in a message, offset, how many to look at,
--       task ("" any), whether they are scheduled (0, 1), how many to move
-- Out: how many were looked at, the ids of those that were moved
local from, to, old, new, task = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[7]
local found = redis.call('ZRANGE', KEYS[5], ARGV[5], ARGV[5] + ARGV[6] - 1, 'WITHSCORES')
local answer, most = {#found / 2}, tonumber(ARGV[9])

local function renamed(text)  -- quotes inside of a JSON string are escaped, so this is the key
    local first, last = text:find(old, 1, true)
    return first and text:sub(1, first - 1) .. new .. text:sub(last + 1) or '{' .. new .. ',' .. text:sub(2)
end

for i = 1, #found, 2 do
    if #answer > most then break end
    local id = found[i]
    local packed = redis.call('HGET', KEYS[2], id)
    local state = packed and cmsgpack.unpack(packed)
    if state and (task == '' or state[11] == task) then
        redis.call('ZREM', KEYS[5], id)
        redis.call('ZADD', KEYS[6], found[i + 1], id)
        state[1] = to
        redis.call('HSET', KEYS[2], id, cmsgpack.pack(state))
        local text = redis.call('HGET', KEYS[1], id)
        if text then redis.call('HSET', KEYS[1], id, renamed(text)) end
        answer[#answer + 1] = id
    end
end
if #answer == 1 then return answer end
redis.call('SADD', KEYS[3], to)
if ARGV[8] == '0' then
    redis.call('ZADD', KEYS[7], 0, '')
    return answer
end
redis.call('ZREM', KEYS[4], from)
for queue, key in pairs({[from] = KEYS[5], [to] = KEYS[6]}) do
    local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
    if first[2] then redis.call('ZADD', KEYS[4], first[2], queue) end
end
return answer
