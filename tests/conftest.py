"""What all tests share: real servers (`tests.servers`) and services running on them (`tests.running`)."""

pytest_plugins = ["tests.running", "tests.servers"]
