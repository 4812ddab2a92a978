-- Moves schedules on to their next ticks, if they stand where their steps start and nobody else is moving them.
-- In: key, tick, changed_at, next tick, runs, last job, enabled, an array each. Out: the keys of those that were moved.
WITH step AS MATERIALIZED (
    SELECT * FROM unnest(
        %s::bigint[], %s::timestamptz[], %s::timestamptz[], %s::timestamptz[], %s::int[], %s::varchar[], %s::bool[]
    ) AS step (id, due, changed_at, next, runs, job, enabled)
), mine AS MATERIALIZED (
    SELECT id FROM djtasks_periodictask
    WHERE id = ANY (ARRAY(SELECT id FROM step)) AND enabled
    FOR UPDATE SKIP LOCKED
)
UPDATE djtasks_periodictask AS task
SET next_run_at = step.next, enabled = step.enabled, total_run_count = task.total_run_count + step.runs,
    last_run_at = CASE WHEN step.runs > 0 THEN clock_timestamp() ELSE task.last_run_at END,
    last_job = CASE WHEN step.runs > 0 THEN step.job ELSE task.last_job END
FROM step JOIN mine ON mine.id = step.id
WHERE task.id = step.id AND task.next_run_at = step.due AND task.changed_at = step.changed_at
RETURNING task.id
