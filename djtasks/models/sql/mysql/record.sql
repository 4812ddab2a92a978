-- Records how jobs ended, if they are still ours (worker and token are the fence). The row is repeated, one a job.
-- In: state, result, seconds, seconds + age and age (µs), exception, message, args, traceback, id, token; worker.
UPDATE djtasks_job AS job
JOIN (
-- row
    SELECT %s AS state, %s AS result, %s AS seconds, %s AS begun, %s AS age, %s AS exception, %s AS exception_message,
        %s AS exception_args, %s AS traceback, %s AS id, %s AS token
-- end of row
) AS o ON job.id = o.id
SET job.state = o.state, job.result = o.result, job.seconds = o.seconds,
    job.started_at = coalesce(job.started_at, utc_timestamp(6) - interval o.begun microsecond),
    job.finished_at = utc_timestamp(6) - interval o.age microsecond,
    job.exception = o.exception, job.exception_message = o.exception_message, job.exception_args = o.exception_args,
    job.traceback = o.traceback
WHERE job.worker = %s AND job.token = o.token AND job.state IN ('RECEIVED', 'STARTED')
