"""Settings from the environment, secrets, TLS, addresses."""
