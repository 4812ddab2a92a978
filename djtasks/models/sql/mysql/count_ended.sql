-- Counts what ended in a period, by task, queue, state, and the buckets of run time and wait (metric.STEPS).
-- In: from, until. Out: task, queue, state, bucket of the run, bucket of the wait (null: none), number.
SELECT task, queue, state,
    CAST(floor(ln(greatest(seconds, 0.000001)) * 5) AS signed),
    CAST(floor(ln(greatest(
        timestampdiff(microsecond, greatest(created_at, coalesce(run_at, created_at)), started_at), 1
    ) / 1000000) * 5) AS signed),
    count(*)
FROM djtasks_job
WHERE finished_at >= %s AND finished_at < %s AND task <> ''
GROUP BY 1, 2, 3, 4, 5
