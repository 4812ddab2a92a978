"""Queues in Redis or Valkey."""
