"""A short piece of what `make chaos` does for as long as it is told: a whole fleet, faults, and what is promised."""

from pathlib import Path

import pytest

from tests.chaos.faults import FAULTS, broker, messages, processes
from tests.chaos.run import plan, run

SHORT = (
    (
        processes.a_process_is_killed_and_started_again,
        messages.every_message_comes_up_to_three_times_and_out_of_order,
    ),
    (broker.the_broker_closes_connections,),
    (messages.poison_of_every_kind_arrives,),  # alone: then each has to be one dead letter, and no more
)


@pytest.mark.timeout(300)
@pytest.mark.xdist_group("chaos")
async def test_a_fleet_under_load_keeps_what_it_promises_whoever_dies_and_whatever_arrives(tmp_path: Path) -> None:
    by_script = {fault.script: fault for fault in FAULTS}
    rounds = [[by_script[script] for script in scripts] for scripts in SHORT]
    said: list[str] = []
    outcome = await run(tmp_path, "sqlite", 1, said.append, rounds, replays=False)
    assert not outcome.problems, "\n".join([*said, *outcome.problems, f"logs: {tmp_path}"])
    assert len(outcome.back) == len(SHORT), said


def test_a_seed_always_draws_the_same_faults_and_each_of_them_before_any_comes_again() -> None:
    drawn = plan(7, "postgresql")
    assert drawn == plan(7, "postgresql")
    assert drawn != plan(8, "postgresql")
    possible = {fault.name for fault in FAULTS if fault.only_on != "sqlite"}
    first = [fault for faults_ in drawn for fault in faults_][: len(possible)]
    assert {fault.name for fault in first} == possible
    assert not any(fault.only_on == "postgresql" for faults_ in plan(7, "sqlite") for fault in faults_)
