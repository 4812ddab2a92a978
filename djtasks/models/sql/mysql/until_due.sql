-- Seconds until the first scheduled job is due: one look into the index for each state.
SELECT timestampdiff(microsecond, utc_timestamp(6), min(run_at)) / 1000000 FROM (
    SELECT min(run_at) AS run_at FROM djtasks_job WHERE state = 'SCHEDULED'
    UNION ALL
    SELECT min(run_at) FROM djtasks_job WHERE state = 'RETRY'
) AS first
