-- Tells where one job of a queue stands, and changes nothing.
-- KEYS: 1 messages, 2 jobs, 3 attempts, 4 ready, 5 scheduled, 6 paused
-- ARGV: id, queue
-- Out: nothing of an unknown one; else the job in the form of a claim's, its owner, how many are ready before it (-1: it is
--      not ready), when it is due (µs; "": it waits for no time), whether the queue is paused
local id = ARGV[1]
local packed = redis.call('HGET', KEYS[2], id)
if not packed then return {} end
local s = cmsgpack.unpack(packed)
local text, attempts = redis.call('HGET', KEYS[1], id), redis.call('HGET', KEYS[3], id)
return {
    {id, text, s[3], s[4], s[5], s[8], s[9], s[10], attempts},
    s[6],
    redis.call('ZRANK', KEYS[4], id) or -1,
    redis.call('ZSCORE', KEYS[5], id) or '',
    redis.call('SISMEMBER', KEYS[6], ARGV[2]),
}
