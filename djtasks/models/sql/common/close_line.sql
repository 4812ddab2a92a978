-- Notes that nobody waits for a place of a limit any more, if that is so. In: key, limit.
UPDATE djtasks_limit SET parked = FALSE
WHERE "key" = %s AND NOT EXISTS (
    SELECT 1 FROM djtasks_ticket AS ticket JOIN djtasks_job AS job ON job.id = ticket.job
    WHERE ticket."limit" = %s AND ticket.standing = 0 AND job.state = 'SCHEDULED'
)
