"""All that leans on the inside of aio-pika, aiormq and pamqp. `pyproject.toml` bounds their versions because of it."""
