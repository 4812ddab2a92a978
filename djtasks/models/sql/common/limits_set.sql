-- The limits that an operator has set. Out: whether it is a queue's; the task, or the queue; its rate, how many at a time.
SELECT 0, "key", rate, NULL FROM djtasks_limit
WHERE is_task AND rate <> ''
UNION ALL
SELECT 1, name, rate_limit, max_concurrency FROM djtasks_queue
WHERE rate_limit <> '' OR max_concurrency IS NOT NULL
