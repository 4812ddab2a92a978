-- Records how one job ended, as record.sql does, without a table to join.
-- In: state, result, seconds, seconds + age and age (µs), exception, message, args, traceback, id, token; worker.
UPDATE djtasks_job
SET state = %s, result = %s, seconds = %s,
    started_at = coalesce(started_at, utc_timestamp(6) - interval %s microsecond),
    finished_at = utc_timestamp(6) - interval %s microsecond,
    exception = %s, exception_message = %s, exception_args = %s, traceback = %s
WHERE id = %s AND token = %s AND worker = %s AND state IN ('RECEIVED', 'STARTED')
