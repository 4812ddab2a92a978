-- Makes the locked due jobs ready, as of the time at which they were due. In: ids. The row is repeated, one an id.
UPDATE djtasks_job
SET state = 'PENDING', order_key = timestampdiff(microsecond, '1970-01-01', run_at)
WHERE id IN (
-- row
%s
-- end of row
)
