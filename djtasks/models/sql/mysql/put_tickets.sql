-- Gives jobs tickets, each in the place of what it had. In: job, limit, standing, rank, slot of each.
INSERT INTO djtasks_ticket (job, `limit`, standing, `rank`, slot)
VALUES
-- row
(%s, %s, %s, %s, %s)
-- end of row
ON DUPLICATE KEY UPDATE
    `limit` = VALUES(`limit`), standing = VALUES(standing), `rank` = VALUES(`rank`), slot = VALUES(slot)
