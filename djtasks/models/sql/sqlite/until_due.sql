-- Seconds until the first scheduled job is due, exact to the millisecond. In: now.
SELECT (julianday(run_at) - julianday(%s)) * 86400 FROM djtasks_job
WHERE state IN ('SCHEDULED', 'RETRY')
ORDER BY run_at
LIMIT 1
