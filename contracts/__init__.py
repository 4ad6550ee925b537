"""The messages and HTTP bodies of all services. Start with `contracts.flow`."""
