-- Tells for which limits jobs wait, as far as their states say.
-- KEYS: 1 jobs
-- ARGV: ids
-- Out: the limit of each, '' of those that have not waited
local limits = {}
for i, id in ipairs(ARGV) do
    local packed = redis.call('HGET', KEYS[1], id)
    local s = packed and cmsgpack.unpack(packed)
    limits[i] = s and s[6] == '' and s[12] or ''
end
return limits
