-- Tells who holds jobs now.
-- KEYS: 1 jobs
-- ARGV: ids
-- Out: id, owner and token of each that is leased, one after another
local held = {}
for _, id in ipairs(ARGV) do
    local packed = redis.call('HGET', KEYS[1], id)
    local s = packed and cmsgpack.unpack(packed)
    if s and s[6] ~= '' then
        held[#held + 1], held[#held + 2], held[#held + 3] = id, s[6], s[3]
    end
end
return held
