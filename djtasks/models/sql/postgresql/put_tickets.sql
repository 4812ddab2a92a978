-- Gives jobs tickets, each in the place of what it had. In: job, limit, standing, rank, slot of each.
INSERT INTO djtasks_ticket (job, "limit", standing, rank, slot)
VALUES
-- row
(%s, %s, %s, %s, %s)
-- end of row
ON CONFLICT (job) DO UPDATE SET
    "limit" = excluded."limit", standing = excluded.standing, rank = excluded.rank, slot = excluded.slot
