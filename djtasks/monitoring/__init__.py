"""What others are told of jobs, each by an optional package: Prometheus, OpenTelemetry, Sentry, and logs.

Nothing is imported unless the site asks for it; see docs/monitoring.md.
"""
