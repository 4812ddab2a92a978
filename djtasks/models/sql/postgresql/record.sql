-- Records how jobs ended, if they are still ours (worker and token are the fence). `age` is seconds since the end.
-- IS NOT DISTINCT FROM: the rows are to be found by their ids, not by the index on workers, full of dead entries.
-- In: the arrays, worker. Out: the ids that were.
UPDATE djtasks_job AS job
SET state = o.state, result = o.result, seconds = o.seconds,
    started_at = coalesce(job.started_at, clock_timestamp() - (o.age + o.seconds) * interval '1 second'),
    finished_at = clock_timestamp() - o.age * interval '1 second',
    exception = o.exception, exception_message = o.exception_message, exception_args = o.exception_args,
    traceback = o.traceback
FROM unnest(
    %s::text[], %s::int[], %s::text[], %s::text[], %s::float8[], %s::float8[], %s::text[], %s::text[], %s::text[],
    %s::text[]
) AS o (id, token, state, result, seconds, age, exception, exception_message, exception_args, traceback)
WHERE job.id = o.id AND job.worker IS NOT DISTINCT FROM %s AND job.token = o.token
    AND job.state IN ('RECEIVED', 'STARTED')
RETURNING job.id
