"""Programs for the tests of this folder."""

import os
import random
import secrets
import sys
import time

from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from uuid_utils.compat import uuid7

from shared.messaging import process


def tell() -> None:
    """What this process was told, and what only it can say."""
    print(" ".join(sys.argv[1:]), f"WHO={os.environ.get('WHO')}", time.strftime("%Z"), sep="\n")
    print(process.ID, random.random(), secrets.token_hex(8), uuid7().hex[12:], sep="\n")
    print(RandomIdGenerator().generate_trace_id())


def fail() -> None:
    """End as a program does that nobody has thought of."""
    raise RuntimeError("on purpose")


def stay() -> None:
    """Run until told to end."""
    time.sleep(600)


if __name__ == "__main__":
    stay()
