"""Log lines, metrics, traces."""
