-- Note how a worker stands. In: how many jobs it has run, how many failed; when its beat looked for due schedules; when
-- it has beaten, NULL if that is noted otherwise, and how often; its id.
UPDATE djtasks_worker SET
    processed = %s,
    failed = %s,
    scheduler_at = %s,
    beat_at = COALESCE(%s, beat_at),
    beat = beat + %s
WHERE id = %s
