-- Records how one job ended, as record.sql does: planning that one takes longer than running it for one row.
-- IS NOT DISTINCT FROM: the row is to be found by its id, not by the index on workers, which fills with dead entries.
-- In: state, result, seconds, seconds + age and age, exception, message, args, traceback, id, worker, token.
UPDATE djtasks_job
SET state = %s, result = %s, seconds = %s,
    started_at = coalesce(started_at, statement_timestamp() - %s::float8 * interval '1 second'),
    finished_at = statement_timestamp() - %s::float8 * interval '1 second',
    exception = %s, exception_message = %s, exception_args = %s, traceback = %s
WHERE id = %s AND worker IS NOT DISTINCT FROM %s AND token = %s AND state IN ('RECEIVED', 'STARTED')
RETURNING id
