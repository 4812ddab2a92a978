-- Locks a limit until the transaction ends. In: key. Out: how many may run at a time, whether jobs wait for a place, the
-- slot that was given last, the time between two.
SELECT max_concurrency, parked, next_slot, "interval" FROM djtasks_limit WHERE "key" = %s FOR UPDATE
