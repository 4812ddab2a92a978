-- Of one task alone, among the first thousand of the queue: what stands behind many others is not looked for.
-- (The second SELECT is for MySQL, which takes no LIMIT in the first.) In: task, queue.
AND task = %s AND id IN (
    SELECT id FROM (
        SELECT id FROM djtasks_job
        WHERE state = 'PENDING' AND queue = %s
        ORDER BY "rank", order_key
        LIMIT 1000
    ) AS head
)
