"""What goes wrong: each script is a fault from its beginning to its end, and draws who is hit from `world.random`.

A script returns once the fault is over; what recovers after that has to recover by itself.
"""

from tests.chaos.faults import broker, databases, links, messages, processes
from tests.chaos.faults.registry import FAULTS, Fault

__all__ = ["FAULTS", "Fault", "broker", "databases", "links", "messages", "processes"]
