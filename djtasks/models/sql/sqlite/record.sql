-- Records how one job ended, if it is still ours (worker and token are the fence).
-- In: state, result, seconds, started_at, finished_at, exception, message, args, traceback, id, worker, token.
UPDATE djtasks_job
SET state = %s, result = %s, seconds = %s, started_at = coalesce(started_at, %s), finished_at = %s,
    exception = %s, exception_message = %s, exception_args = %s, traceback = %s
WHERE id = %s AND worker = %s AND token = %s AND state IN ('RECEIVED', 'STARTED')
