-- The names of the queues that hold ready jobs: a jump through the index from one name to the next.
WITH RECURSIVE names (queue) AS (
    SELECT min(queue) FROM djtasks_job WHERE state = 'PENDING'
    UNION ALL
    SELECT (SELECT min(job.queue) FROM djtasks_job AS job WHERE job.state = 'PENDING' AND job.queue > names.queue)
    FROM names
    WHERE names.queue IS NOT NULL
)
SELECT queue FROM names WHERE queue IS NOT NULL
