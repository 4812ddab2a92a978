-- Puts one outcome of a job whose queue is elsewhere into its row, as store.sql does: planning that one takes longer
-- than running it for one row. In: the columns by name.
INSERT INTO djtasks_job AS job (
    id, task, queue, priority, rank, state, args, kwargs, run_at, expires_at, created_at, started_at, finished_at,
    seconds, token, losses, refusals, retries, worker, revoked, result, exception, exception_message, exception_args,
    traceback, attempts, children, parent_id, root_id, group_id, periodic_task, unique_key, enqueued_by, headers,
    options, version
)
VALUES (
    %(id)s, %(task)s, %(queue)s, %(priority)s, -%(priority)s, %(state)s, %(args)s, %(kwargs)s,
    coalesce(%(eta)s::timestamptz, statement_timestamp() + %(countdown)s::float8 * interval '1 second'),
    coalesce(%(expires_at)s::timestamptz, statement_timestamp() + %(expires_in)s::float8 * interval '1 second'),
    coalesce(%(created_at)s::timestamptz, statement_timestamp()),
    statement_timestamp() - %(begun)s::float8 * interval '1 second',
    statement_timestamp() - %(age)s::float8 * interval '1 second',
    %(seconds)s, %(token)s, %(losses)s, %(refusals)s, %(retries)s, %(worker)s, %(revoked)s, %(result)s, %(exception)s,
    %(exception_message)s, %(exception_args)s, %(traceback)s, %(attempts)s, %(children)s, %(parent_id)s, %(root_id)s,
    %(group_id)s, %(periodic_task)s, %(unique_key)s, %(enqueued_by)s, %(headers)s, %(options)s, %(version)s
)
ON CONFLICT (id) DO UPDATE SET
    queue = excluded.queue, priority = excluded.priority, rank = excluded.rank, state = excluded.state,
    args = excluded.args, kwargs = excluded.kwargs, run_at = excluded.run_at, expires_at = excluded.expires_at,
    started_at = excluded.started_at, finished_at = excluded.finished_at, seconds = excluded.seconds,
    token = excluded.token, losses = excluded.losses, refusals = excluded.refusals, retries = excluded.retries,
    worker = excluded.worker, revoked = excluded.revoked, result = excluded.result, exception = excluded.exception,
    exception_message = excluded.exception_message, exception_args = excluded.exception_args,
    traceback = excluded.traceback, attempts = coalesce(excluded.attempts, job.attempts),
    children = coalesce(excluded.children, job.children), headers = excluded.headers,
    options = excluded.options
WHERE job.state NOT IN ('SUCCESS', 'FAILURE', 'REVOKED', 'IGNORED', 'REPLACED')
    AND (job.retries, job.token)
        <= (excluded.retries - CASE WHEN excluded.state = 'RETRY' THEN 1 ELSE 0 END, excluded.token)
RETURNING id
