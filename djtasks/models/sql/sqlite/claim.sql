-- Leases ready jobs of one queue: highest priority first, then oldest. One statement takes the write lock up front.
-- A paused queue gives out only what was revoked, which stands at rank -1000. In: worker, queue, queue, limit.
UPDATE djtasks_job
SET state = 'RECEIVED', worker = %s, token = token + 1
WHERE id IN (
    SELECT id FROM djtasks_job
    WHERE state = 'PENDING' AND queue = %s
        AND rank <= (SELECT CASE WHEN EXISTS (SELECT 1 FROM djtasks_queue WHERE name = %s AND paused)
            THEN -1000 ELSE 1000 END)
        /* filters */
    ORDER BY rank, order_key
    LIMIT %s
)
RETURNING
    id, task, args, kwargs, queue, priority, run_at, expires_at, retries,
    parent_id, root_id, group_id, unique_key, periodic_task, enqueued_by, headers,
    options, version, token, losses, refusals, revoked, attempts, created_at,
    rank, order_key
