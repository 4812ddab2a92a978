-- Acknowledges jobs before they run, if still leased by that owner under that token.
-- KEYS: 1 jobs
-- ARGV: owner; then id, token of each
-- Out: the ids that are still leased
local held = {}
redis.call('HDEL', KEYS[1], '')
for i = 2, #ARGV, 2 do
    local packed = redis.call('HGET', KEYS[1], ARGV[i])
    local state = packed and cmsgpack.unpack(packed)
    if state and state[6] == ARGV[1] and state[3] == tonumber(ARGV[i + 1]) then
        state[7] = 1
        redis.call('HSET', KEYS[1], ARGV[i], cmsgpack.pack(state))
        held[#held + 1] = ARGV[i]
    end
end
return held
