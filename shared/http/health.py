"""Checks the health of the service in this container, since images have no curl:
`python -m shared.http.health [/readyz]`."""

import http.client
import os
import sys

SECONDS = 4.0


def main(path: str = "/livez") -> int:
    """Return 0 if the answer is a 200. The fault goes to stdout, for `docker inspect`."""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", _port(), timeout=SECONDS)
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read(4096).decode(errors="replace")
    except (OSError, http.client.HTTPException, ValueError) as error:
        print(f"{path}: {error or type(error).__name__}")
        return 1
    print(body)
    return 0 if answer.status == http.client.OK else 1


def _port() -> int:
    """The health port, or the only port. A service's own variable wins over the common one, as in the settings, whose
    reading would take ten times as long."""
    own = os.environ.get("SERVICE", "").upper()
    variables = (f"{prefix}_{field}" for field in ("HEALTH_PORT", "PORT") for prefix in (own, "MALOTE"))
    return int(next(filter(None, map(os.environ.get, variables)), "8000"))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
