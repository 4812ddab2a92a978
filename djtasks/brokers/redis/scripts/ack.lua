-- Forgets finished jobs, if still leased by that owner under that token.
-- KEYS: 1 messages, 2 jobs, 3 attempts, 4 leases of the owner, 5 owners
-- ARGV: owner; then id, token of each
local owner, ids, mine = ARGV[1], {}, {}
for i = 2, #ARGV, 2 do ids[#ids + 1] = ARGV[i] end
for i, packed in ipairs(redis.call('HMGET', KEYS[2], unpack(ids))) do
    local state = packed and cmsgpack.unpack(packed)
    if state and state[6] == owner and state[3] == tonumber(ARGV[2 * i + 1]) then mine[#mine + 1] = ids[i] end
end
redis.call('HDEL', KEYS[4], unpack(ids))
if redis.call('EXISTS', KEYS[4]) == 0 then redis.call('SREM', KEYS[5], owner) end
if #mine > 0 then
    redis.call('HDEL', KEYS[1], unpack(mine))
    redis.call('HDEL', KEYS[2], unpack(mine))
    redis.call('HDEL', KEYS[3], unpack(mine))
end
return #mine
