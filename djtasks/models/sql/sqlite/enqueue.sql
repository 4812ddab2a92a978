-- Puts one message in its queue; a taken id is left alone, and so is a taken unique key. A priority that nobody chose gives way to the queue's.
-- Times are resolved by the caller: the file is local.
INSERT INTO djtasks_job (
    worker, token, id, task, queue, priority, rank, order_key, state, args, kwargs, run_at, expires_at, created_at,
    retries, parent_id, root_id, group_id, periodic_task, unique_key, enqueued_by, headers, options, version
)
VALUES (
    %s, %s, %s, %s, %s,
    coalesce((SELECT default_priority FROM djtasks_queue WHERE name = %s), %s),
    -coalesce((SELECT default_priority FROM djtasks_queue WHERE name = %s), %s),
    %s, %s, %s, %s, %s, %s, %s, %s,
    %s, %s, %s, %s, %s, %s, %s, %s, %s
)
ON CONFLICT DO NOTHING
