"""The whole flow."""

from tests.bench.common import Figure, Machines


def measure(machines: Machines, scale: float) -> list[Figure]:
    return []
