-- Shows jobs of one queue in their order and changes nothing.
-- KEYS: 1 ready or scheduled, 2 messages, 3 jobs, 4 attempts
-- ARGV: first and last position
-- Out: jobs in the form of a claim's
local ids, shown, bytes = redis.call('ZRANGE', KEYS[1], ARGV[1], ARGV[2]), {}, 0
for i, id in ipairs(ids) do
    local packed = redis.call('HGET', KEYS[3], id)
    local s = packed and cmsgpack.unpack(packed) or {'', 0, 0, 0, 0, '', 0, 0, 0, 0, ''}
    local text, attempts = redis.call('HGET', KEYS[2], id), redis.call('HGET', KEYS[4], id)
    bytes = bytes + (text and #text or 0)
    if i > 1 and bytes > 8 * 1024 * 1024 then break end
    shown[i] = {id, text, s[3], s[4], s[5], s[8], s[9], s[10], attempts}
end
return shown
