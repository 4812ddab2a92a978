-- Counts what ended in a period, by task, queue, state, and the buckets of run time and wait (metric.STEPS).
-- In: from, until. Out: task, queue, state, bucket of the run, bucket of the wait (null: none), number.
SELECT task, queue, state,
    CASE WHEN seconds IS NOT NULL THEN floor(ln(greatest(seconds, 0.000001)) * 5)::int END,
    CASE WHEN started_at IS NOT NULL THEN floor(
        ln(greatest(extract(epoch FROM started_at - greatest(created_at, run_at))::float8, 0.000001)) * 5
    )::int END,
    count(*)
FROM djtasks_job
WHERE finished_at >= %s AND finished_at < %s AND task <> ''
GROUP BY 1, 2, 3, 4, 5
