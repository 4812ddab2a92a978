-- How many jobs are ready in one queue, no more than some are counted; several are put together by UNION ALL.
-- In: queue, queue, most. Out: queue, count.
SELECT %s, count(*) FROM (SELECT 1 FROM djtasks_job WHERE state = 'PENDING' AND queue = %s LIMIT %s) AS counted
