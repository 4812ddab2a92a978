-- Makes those ready who are first in the line for the free places of a limit. In: limit, most, places, limit, limit.
-- Out: their queues.
WITH first AS MATERIALIZED (
    SELECT ticket.job FROM djtasks_ticket AS ticket JOIN djtasks_job AS job ON job.id = ticket.job
    WHERE ticket."limit" = %s AND ticket.standing = 0 AND job.state = 'SCHEDULED'
    ORDER BY ticket.rank, ticket.slot
    LIMIT least(%s, greatest(0, %s
        - (SELECT count(*) FROM djtasks_ticket AS ticket JOIN djtasks_job AS job ON job.id = ticket.job
            WHERE ticket."limit" = %s AND ticket.standing = 2 AND job.state IN ('RECEIVED', 'STARTED'))
        - (SELECT count(*) FROM djtasks_ticket AS ticket JOIN djtasks_job AS job ON job.id = ticket.job
            WHERE ticket."limit" = %s AND ticket.standing = 1 AND job.state = 'PENDING')))
), called AS (
    UPDATE djtasks_ticket AS ticket SET standing = 1 FROM first WHERE ticket.job = first.job
)
UPDATE djtasks_job AS job SET state = 'PENDING'
FROM first
WHERE job.id = first.job AND job.state = 'SCHEDULED'
RETURNING job.queue
