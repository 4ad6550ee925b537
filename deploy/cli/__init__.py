"""The command line. While it loads, Ctrl-C ends it without a message."""

import os
import signal
import sys

if os.path.basename(sys.argv[0]) == "malote":  # no work has begun that would need to be ended in order
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
