-- Counts who holds a place under a limit, who was called to one, and who waits, but for those who ask; of the latter two
-- so many at most. A ticket counts only while its job stands as it says.
-- In: limit, ids; limit, ids, most; limit, ids, most.
SELECT
    (
        SELECT count(*) FROM djtasks_ticket AS ticket JOIN djtasks_job AS job ON job.id = ticket.job
        WHERE ticket."limit" = %s AND ticket.standing = 2 AND job.state IN ('RECEIVED', 'STARTED') /* others */
    ),
    (
        SELECT count(*) FROM (
            SELECT 1 FROM djtasks_ticket AS ticket JOIN djtasks_job AS job ON job.id = ticket.job
            WHERE ticket."limit" = %s AND ticket.standing = 1 AND job.state = 'PENDING' /* others */
            LIMIT %s
        ) AS called
    ),
    (
        SELECT count(*) FROM (
            SELECT 1 FROM djtasks_ticket AS ticket JOIN djtasks_job AS job ON job.id = ticket.job
            WHERE ticket."limit" = %s AND ticket.standing = 0 AND job.state = 'SCHEDULED' /* others */
            LIMIT %s
        ) AS waiting
    )
