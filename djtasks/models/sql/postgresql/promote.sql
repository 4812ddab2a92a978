-- Makes due jobs ready, as of the time at which they were due; the oldest first. In: limit. Out: their queues.
WITH due AS MATERIALIZED (
    SELECT id FROM djtasks_job
    WHERE state IN ('SCHEDULED', 'RETRY') AND run_at <= clock_timestamp()
    ORDER BY run_at
    LIMIT %s
    FOR UPDATE SKIP LOCKED
)
UPDATE djtasks_job AS job
SET state = 'PENDING', order_key = (extract(epoch FROM job.run_at) * 1000000)::bigint
FROM due
WHERE job.id = due.id
RETURNING job.queue
