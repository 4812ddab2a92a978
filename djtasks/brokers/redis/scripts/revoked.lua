-- Tells which of these jobs are flagged as revoked.
-- KEYS: 1 jobs
-- ARGV: ids
-- Out: their ids
local found = {}
for _, id in ipairs(ARGV) do
    local is_read, s = pcall(cmsgpack.unpack, redis.call('HGET', KEYS[1], id) or '')
    if is_read and type(s) == 'table' and s[8] == 1 then found[#found + 1] = id end
end
return found
