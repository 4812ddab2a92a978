-- Since when the job has been ready that has been so for longest: jumps through the index over queues and priorities.
-- Out: queue, microseconds (order_key); several rows a queue.
WITH RECURSIVE names (queue) AS (
    SELECT min(queue) FROM djtasks_job WHERE state = 'PENDING'
    UNION ALL
    SELECT (SELECT min(job.queue) FROM djtasks_job AS job WHERE job.state = 'PENDING' AND job.queue > names.queue)
    FROM names
    WHERE names.queue IS NOT NULL
),
places (queue, place) AS (
    SELECT names.queue, (
        SELECT min(job.rank) FROM djtasks_job AS job WHERE job.state = 'PENDING' AND job.queue = names.queue
    )
    FROM names
    WHERE names.queue IS NOT NULL
    UNION ALL
    SELECT places.queue, (
        SELECT min(job.rank) FROM djtasks_job AS job
        WHERE job.state = 'PENDING' AND job.queue = places.queue AND job.rank > places.place
    )
    FROM places
    WHERE places.place IS NOT NULL
)
SELECT places.queue, (
    SELECT min(job.order_key) FROM djtasks_job AS job
    WHERE job.state = 'PENDING' AND job.queue = places.queue AND job.rank = places.place
)
FROM places
WHERE places.place IS NOT NULL
