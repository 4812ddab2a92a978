-- Puts messages in their queues; a taken id is left alone. A priority that nobody chose gives way to the queue's.
-- In: state, worker and token of what is due; one array a column, in the order of the messages.
WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now),
    lease AS (SELECT %s::text AS state, %s::text AS worker, %s::int AS token)
INSERT INTO djtasks_job (
    id, task, queue, priority, rank, order_key, state, worker, token, args, kwargs, run_at, expires_at, created_at,
    retries, parent_id, root_id, group_id, periodic_task, unique_key, enqueued_by, headers, options, version
)
SELECT
    m.id, m.task, m.queue, coalesce(q.default_priority, m.priority), -coalesce(q.default_priority, m.priority),
    (extract(epoch FROM clock.now) * 1000000)::bigint + m.position,
    CASE WHEN coalesce(m.eta, clock.now + m.countdown * interval '1 second') > clock.now
        THEN 'SCHEDULED' ELSE lease.state END,
    lease.worker, lease.token, m.args, m.kwargs, coalesce(m.eta, clock.now + m.countdown * interval '1 second'),
    coalesce(m.expires_at, clock.now + m.expires_in * interval '1 second'), clock.now, m.retries,
    m.parent_id, m.root_id, m.group_id, m.periodic_task, m.unique_key, m.enqueued_by, m.headers, m.options, m.version
FROM clock, lease, unnest(
    %s::text[], %s::text[], %s::text[], %s::int[], %s::bool[], %s::text[], %s::text[], %s::timestamptz[], %s::float8[],
    %s::timestamptz[], %s::float8[], %s::int[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],
    %s::text[], %s::text[], %s::text[], %s::int[]
) WITH ORDINALITY AS m (
    id, task, queue, priority, prioritized, args, kwargs, eta, countdown, expires_at, expires_in, retries, parent_id,
    root_id, group_id, periodic_task, unique_key, enqueued_by, headers, options, version, position
)
LEFT JOIN djtasks_queue AS q ON q.name = m.queue AND NOT m.prioritized
ORDER BY m.id, m.position
ON CONFLICT (id) DO NOTHING
