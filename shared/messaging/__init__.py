"""Lanes, handlers, the unit of work, inbox, outbox, retries, the topology: all that speaks to the broker."""
