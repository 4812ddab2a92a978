-- How many jobs of each queue are for later, of which no more than some of all queues together are counted, and run.
-- In: most. Out: queue, whether they run, count.
SELECT queue, 0, count(*)
FROM (SELECT queue FROM djtasks_job WHERE state IN ('SCHEDULED', 'RETRY') LIMIT %s) AS counted
GROUP BY queue
UNION ALL
SELECT queue, 1, count(*) FROM djtasks_job WHERE state IN ('RECEIVED', 'STARTED') GROUP BY queue
