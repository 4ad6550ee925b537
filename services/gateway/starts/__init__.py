"""What clients can start, by the service that works on it: check who may, build the command, start."""
