-- Leases ready jobs of one queue: highest priority first, then oldest. The CTE is a fence: the planner may run a
-- LIMIT subquery twice. A paused queue gives out only what was revoked, which stands at rank -1000.
-- In: queue, queue, limit, worker.
WITH ready AS MATERIALIZED (
    SELECT id FROM djtasks_job
    WHERE state = 'PENDING' AND queue = %s
        AND rank <= (SELECT CASE WHEN EXISTS (SELECT 1 FROM djtasks_queue WHERE name = %s AND paused)
            THEN -1000 ELSE 1000 END)
        /* filters */
    ORDER BY rank, order_key
    LIMIT %s
    FOR UPDATE SKIP LOCKED
)
UPDATE djtasks_job AS job
SET state = 'RECEIVED', worker = %s, token = job.token + 1
FROM ready
WHERE job.id = ready.id
RETURNING
    job.id, job.task, job.args, job.kwargs, job.queue, job.priority, job.run_at, job.expires_at, job.retries,
    job.parent_id, job.root_id, job.group_id, job.unique_key, job.periodic_task, job.enqueued_by, job.headers,
    job.options, job.version, job.token, job.losses, job.refusals, job.revoked, job.attempts, job.created_at,
    job.rank, job.order_key
