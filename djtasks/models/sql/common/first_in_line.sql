-- Who is first in the line for places of a limit; how many hold one, and were called to one. In: limit, limit, limit, most.
SELECT
    ticket.job, job.queue,
    (SELECT count(*) FROM djtasks_ticket AS ticket JOIN djtasks_job AS job ON job.id = ticket.job
        WHERE ticket."limit" = %s AND ticket.standing = 2 AND job.state IN ('RECEIVED', 'STARTED')),
    (SELECT count(*) FROM djtasks_ticket AS ticket JOIN djtasks_job AS job ON job.id = ticket.job
        WHERE ticket."limit" = %s AND ticket.standing = 1 AND job.state = 'PENDING')
FROM djtasks_ticket AS ticket JOIN djtasks_job AS job ON job.id = ticket.job
WHERE ticket."limit" = %s AND ticket.standing = 0 AND job.state = 'SCHEDULED'
ORDER BY ticket."rank", ticket.slot
LIMIT %s
