-- Makes a limit, unless it is there. In: key. With INSERT IGNORE all who wait for the one that makes it would share a lock
-- on it next, and each would wait for the others to let go.
INSERT INTO djtasks_limit (`key`) VALUES (%s) ON DUPLICATE KEY UPDATE `key` = `key`
