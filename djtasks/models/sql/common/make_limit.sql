-- Makes a limit, unless it is there. In: key.
INSERT INTO djtasks_limit ("key") VALUES (%s) ON CONFLICT DO NOTHING
