"""The kernel: delivery, retries, dead letters, databases, logs and tokens, once for all services."""
