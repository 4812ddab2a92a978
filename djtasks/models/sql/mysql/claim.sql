-- Locks ready jobs of one queue: highest priority first, then oldest; the UPDATE follows in the same transaction,
-- since there is no UPDATE … RETURNING. A paused queue gives out only what was revoked, which stands at rank -1000.
-- In: queue, queue, limit.
SELECT
    id, task, args, kwargs, queue, priority, run_at, expires_at, retries,
    parent_id, root_id, group_id, unique_key, periodic_task, enqueued_by, headers,
    options, version, token + 1, losses, refusals, revoked, attempts, created_at,
    `rank`, order_key
FROM djtasks_job
WHERE state = 'PENDING' AND queue = %s
    AND `rank` <= (SELECT CASE WHEN EXISTS (SELECT 1 FROM djtasks_queue WHERE name = %s AND paused)
        THEN -1000 ELSE 1000 END)
    /* filters */
ORDER BY `rank`, order_key
LIMIT %s
FOR UPDATE SKIP LOCKED
