-- How queues are set. Out: the name, the default priority, the seconds of waiting that count as one priority.
SELECT name, default_priority, aging FROM djtasks_queue
WHERE default_priority IS NOT NULL OR aging IS NOT NULL
