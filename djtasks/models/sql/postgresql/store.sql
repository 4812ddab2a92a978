-- Puts outcomes of jobs whose queue is elsewhere into their rows, which may not be there yet. The first terminal one is
-- final; so is a later try or claim against an earlier one. In: the arrays; begun and age are seconds until now.
-- Out: the ids that were written.
WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now)
INSERT INTO djtasks_job AS job (
    id, task, queue, priority, rank, state, args, kwargs, run_at, expires_at, created_at, started_at, finished_at,
    seconds, token, losses, refusals, retries, worker, revoked, result, exception, exception_message, exception_args,
    traceback, attempts, children, parent_id, root_id, group_id, periodic_task, unique_key, enqueued_by, headers,
    options, version
)
SELECT
    o.id, o.task, o.queue, o.priority, -o.priority, o.state, o.args, o.kwargs,
    coalesce(o.eta, clock.now + o.countdown * interval '1 second'),
    coalesce(o.expires_at, clock.now + o.expires_in * interval '1 second'), coalesce(o.created_at, clock.now),
    clock.now - o.begun * interval '1 second', clock.now - o.age * interval '1 second',
    o.seconds, o.token, o.losses, o.refusals, o.retries, o.worker, o.revoked, o.result, o.exception,
    o.exception_message, o.exception_args, o.traceback, o.attempts, o.children, o.parent_id, o.root_id, o.group_id,
    o.periodic_task, o.unique_key, o.enqueued_by, o.headers, o.options, o.version
FROM clock, unnest(
    %s::text[], %s::text[], %s::text[], %s::int[], %s::text[], %s::text[], %s::text[], %s::timestamptz[], %s::float8[],
    %s::timestamptz[], %s::float8[], %s::timestamptz[], %s::float8[], %s::float8[], %s::float8[], %s::int[], %s::int[],
    %s::int[], %s::int[], %s::text[], %s::bool[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],
    %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],
    %s::text[], %s::int[]
) AS o (
    id, task, queue, priority, state, args, kwargs, eta, countdown, expires_at, expires_in, created_at, begun, age,
    seconds, token, losses, refusals, retries, worker, revoked, result, exception, exception_message, exception_args,
    traceback, attempts, children, parent_id, root_id, group_id, periodic_task, unique_key, enqueued_by, headers,
    options, version
)
ORDER BY o.id
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
