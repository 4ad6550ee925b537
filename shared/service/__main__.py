"""`python -m shared.service NAME [NAME …]`: one service in a process, or several."""

import sys

from shared.service.folder import NoService, service_in
from shared.service.process import run


def main(*names: str) -> None:
    """Raises SystemExit: status 2 for an unknown or repeated name, 78 for a wrong setting."""
    if not names or len(set(names)) < len(names):
        print("give the services to run here, each only once: python -m shared.service NAME [NAME …]", file=sys.stderr)
        raise SystemExit(2)
    try:
        services = [service_in(name) for name in names]
    except NoService as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    run(*services)


if __name__ == "__main__":
    main(*sys.argv[1:])
