-- Locks a limit until the transaction ends: who reads before he writes gets no lock here. In: key. Out: how many may run at
-- a time, whether jobs wait for a place, the slot that was given last, the time between two.
UPDATE djtasks_limit SET parked = parked WHERE "key" = %s RETURNING max_concurrency, parked, next_slot, "interval"
