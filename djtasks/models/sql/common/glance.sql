-- What there is to do for a worker. In: its id. Out: its commands, and whether there are rows in the outbox, jobs that
-- run, and limits for which jobs wait.
SELECT
    (SELECT command FROM djtasks_worker WHERE id = %s),
    EXISTS (SELECT 1 FROM djtasks_outbox),
    EXISTS (SELECT 1 FROM djtasks_job WHERE state IN ('RECEIVED', 'STARTED')),
    EXISTS (SELECT 1 FROM djtasks_limit WHERE parked)
