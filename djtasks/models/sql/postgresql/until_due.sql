-- Seconds until the first scheduled job is due.
SELECT extract(epoch FROM run_at - clock_timestamp()) FROM djtasks_job
WHERE state IN ('SCHEDULED', 'RETRY')
ORDER BY run_at
LIMIT 1
