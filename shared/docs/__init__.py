"""AsyncAPI and OpenAPI, written from the code."""
