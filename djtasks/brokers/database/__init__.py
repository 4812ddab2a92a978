"""The broker whose queue is the job table."""
