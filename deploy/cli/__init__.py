"""The command line. Loading it takes a moment: until it can say something itself, Ctrl-C just ends it."""

import os
import signal
import sys

if os.path.basename(sys.argv[0]) == "malote":  # nothing is begun yet that would have to be left in order
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
