-- Puts messages in their queues; a taken id is left alone. A priority that nobody chose gives way to the queue's.
-- The row is repeated, one a message.
INSERT INTO djtasks_job (
    id, task, queue, priority, `rank`, order_key, state, worker, token, args, kwargs, run_at, expires_at, created_at,
    retries, parent_id, root_id, group_id, periodic_task, unique_key, enqueued_by, headers, options, version
)
VALUES
-- row
(
    %s, %s, %s,
    coalesce((SELECT default_priority FROM djtasks_queue WHERE name = %s), %s),
    -coalesce((SELECT default_priority FROM djtasks_queue WHERE name = %s), %s),
    timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) + %s,
    if(coalesce(%s, utc_timestamp(6) + interval %s microsecond) > utc_timestamp(6), 'SCHEDULED', %s),
    %s, %s, %s, %s, coalesce(%s, utc_timestamp(6) + interval %s microsecond),
    coalesce(%s, utc_timestamp(6) + interval %s microsecond), utc_timestamp(6), %s,
    %s, %s, %s, %s, %s, %s, %s, %s, %s
)
-- end of row
ON DUPLICATE KEY UPDATE id = djtasks_job.id
