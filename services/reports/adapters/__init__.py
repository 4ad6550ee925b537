"""The outside world of reports: the object storage, the services that it asks, and bulk reads from the database."""
