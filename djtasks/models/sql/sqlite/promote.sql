-- Makes due jobs ready, as of the time at which they were due; the oldest first. In: now, limit. Out: their queues.
-- julianday() is exact to the millisecond only, so the microseconds are cut from the text.
UPDATE djtasks_job
SET state = 'PENDING',
    order_key = CAST(strftime('%%s', run_at) AS INTEGER) * 1000000
        + CAST(substr(substr(run_at, 21) || '000000', 1, 6) AS INTEGER)
WHERE id IN (
    SELECT id FROM djtasks_job
    WHERE state IN ('SCHEDULED', 'RETRY') AND run_at <= %s
    ORDER BY run_at
    LIMIT %s
)
RETURNING queue
