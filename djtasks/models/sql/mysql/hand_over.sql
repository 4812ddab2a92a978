-- Records how one job ended and leases the one that follows to the same worker, if the first is held; a transaction in
-- one round trip, as MariaDB takes it. /* record */ and /* enqueue */ are those statements.
-- In: as record, as enqueue; id, next id, worker. Out: the ids that were written.
BEGIN NOT ATOMIC
    DECLARE is_held BOOL DEFAULT FALSE;
    DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;
    START TRANSACTION;
    /* record */;
    SET is_held = row_count() = 1;
    IF is_held THEN
        /* enqueue */;
    END IF;
    COMMIT;
    SELECT id FROM djtasks_job
    WHERE is_held AND (id = %s OR (id = %s AND worker = %s AND token = 1 AND state = 'RECEIVED'));
END
