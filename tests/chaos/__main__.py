"""`make chaos`: a whole fleet as real processes, and faults from a seed."""

import argparse
import asyncio
import logging
import os
import shutil
import signal
import sys
from collections import defaultdict

import uvloop

from tests.chaos.faults import FAULTS
from tests.chaos.run import Outcome, plan, run
from tests.several import ROOT

DATA = ROOT / ".data" / "chaos"


def main() -> int:
    """0 if all runs kept what is promised."""
    names = [fault.name for fault in FAULTS]
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", epilog=f"Scripts: {', '.join(names)}.")
    parser.add_argument("--seed", type=int, default=1, help="of the first run; each further one has the next")
    parser.add_argument("--runs", type=int, default=1, help="how many")
    parser.add_argument("--seconds", type=float, default=40.0, help="for how long faults happen in each")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], help="else two runs in five on postgresql")
    parser.add_argument("--only", choices=names, metavar="SCRIPT", help="no other fault than this")
    parser.add_argument("--from", dest="old", metavar="REVISION", help="begin as this one, and be upgraded under load")
    wishes = parser.parse_args()
    logging.disable()  # of the driver's own connections: they are cut as often as the fleet's
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever starts us in the background turns it off
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # so that nothing is left behind
    failed, back = 0, defaultdict[str, list[float]](list)
    for seed in range(wishes.seed, wishes.seed + wishes.runs):
        kind = wishes.database or ("postgresql" if seed % 5 in (1, 3) else "sqlite")
        again = f"--seed {seed} --seconds {wishes.seconds:g} --database {kind}"
        again += f" --only {wishes.only}" if wishes.only else ""
        again += f" --from {wishes.old}" if wishes.old else ""
        folder = DATA / f"{seed}-{kind}-{os.getpid()}"
        folder.mkdir(parents=True)
        with (folder / "chaos.log").open("w") as log:

            def say(line: str) -> None:
                print(line, flush=True)
                print(line, file=log, flush=True)

            say(f"seed {seed}, {kind}: {wishes.seconds:g} s of faults")
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                rounds = plan(seed, kind, wishes.only)
                try:
                    outcome = runner.run(run(folder, kind, seed, say, rounds, wishes.seconds, old=wishes.old))
                except Exception as error:  # it did not come to its faults, or could not be judged
                    outcome = Outcome([f"the run itself failed: {error!r}"])
            for name, seconds in outcome.back.items():
                back[name] += seconds
            for problem in outcome.problems:
                say(f"PROBLEM: {problem}")
            if outcome.problems:
                failed += 1
                say(f"FAILED. Its logs are in {folder}. Again: python -m tests.chaos {again}")
            else:
                say("kept")
        if not outcome.problems:
            shutil.rmtree(folder)
    print(f"{wishes.runs - failed} of {wishes.runs} runs kept all that is promised; seconds until all was back:")
    for name, seconds in sorted(back.items()):
        print(f"  {max(seconds):5.1f} at the most, {sum(seconds) / len(seconds):5.1f} on average: {name}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
