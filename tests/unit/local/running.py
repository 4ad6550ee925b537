"""Real processes for the tests of this folder."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def sleeper(*arguments: str, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that does nothing until it is ended, with these words in its command line."""
    program = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, **environment}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()
