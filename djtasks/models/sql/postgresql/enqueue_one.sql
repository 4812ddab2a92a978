-- Puts one message in its queue, as enqueue.sql does (a taken unique key is left alone, too): planning that one takes longer than running it for one row.
INSERT INTO djtasks_job (
    id, task, queue, priority, rank, order_key, state, worker, token, args, kwargs, run_at, expires_at, created_at,
    retries, parent_id, root_id, group_id, periodic_task, unique_key, enqueued_by, headers, options, version
)
SELECT
    %s, %s, %s,
    coalesce((SELECT default_priority FROM djtasks_queue WHERE name = %s), %s),
    -coalesce((SELECT default_priority FROM djtasks_queue WHERE name = %s), %s),
    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
    CASE WHEN coalesce(%s::timestamptz, clock_timestamp() + %s::float8 * interval '1 second') > clock_timestamp()
        THEN 'SCHEDULED' ELSE %s END,
    %s, %s, %s, %s, coalesce(%s::timestamptz, clock_timestamp() + %s::float8 * interval '1 second'),
    coalesce(%s::timestamptz, clock_timestamp() + %s::float8 * interval '1 second'), clock_timestamp(), %s,
    %s, %s, %s, %s, %s, %s, %s, %s, %s
/* after */
ON CONFLICT DO NOTHING
