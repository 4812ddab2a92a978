-- Gives a portion of all jobs that wait, of whatever queue, and changes nothing.
-- KEYS: 1 messages, 2 jobs, 3 attempts
-- ARGV: cursor ("0" at first), about how many, whether those that are leased count, too
-- Out: the next cursor ("0": that was all); then jobs in the form of a claim's
local page = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local found = {page[1]}
for i = 1, #page[2], 2 do
    local id, text = page[2][i], page[2][i + 1]
    local packed = redis.call('HGET', KEYS[2], id)
    local s = packed and cmsgpack.unpack(packed)
    if s and (s[6] == '' or ARGV[3] == '1') then
        found[#found + 1] = {id, text, s[3], s[4], s[5], s[8], s[9], s[10], redis.call('HGET', KEYS[3], id)}
    end
end
return found
