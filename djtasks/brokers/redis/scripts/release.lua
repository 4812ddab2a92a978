-- Gives jobs of one queue back at their old place, if still leased by that owner under that token.
-- KEYS: 1 jobs, 2 leases of the owner, 3 owners, 4 queues, 5 due, 6 ready, 7 scheduled, 8 wake
-- ARGV: owner, queue, delay (µs), which number of the state to raise (0 none, 4 losses, 5 refusals); then id, token of each
-- Out: how many
local owner, queue, delay, field = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local clock = redis.call('TIME')
local at = clock[1] * 1000000 + clock[2] + delay
local count = 0
for i = 5, #ARGV, 2 do
    local id = ARGV[i]
    redis.call('HDEL', KEYS[2], id)
    local packed = redis.call('HGET', KEYS[1], id)
    local state = packed and cmsgpack.unpack(packed)
    if state and state[6] == owner and state[3] == tonumber(ARGV[i + 1]) then
        state[6], state[7] = '', 0
        if field > 0 then state[field] = state[field] + 1 end
        if delay > 0 and state[8] == 0 then
            redis.call('ZADD', KEYS[7], at, id)
            redis.call('ZADD', KEYS[5], 'LT', at, queue)
        else
            redis.call('ZADD', KEYS[6], state[2], id)
            redis.call('ZADD', KEYS[8], 0, '')
        end
        redis.call('HSET', KEYS[1], id, cmsgpack.pack(state))
        count = count + 1
    end
end
if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('SREM', KEYS[3], owner) end
if count > 0 then redis.call('SADD', KEYS[4], queue) end
return count
