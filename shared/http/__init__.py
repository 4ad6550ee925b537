"""The edge: requests, problems, tokens, ports, connections."""
