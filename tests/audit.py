"""Asks whether anything that the product brings along is known to be vulnerable: `make audit`.

Ends with 0 if nothing is, with 1 if something is, and with 3 if nobody could be asked. pip-audit passes over packages
that its service does not answer for, and then calls all clean; so it has to find first what is known to be there.
pip-audit's own variables name another service than PyPI's: `PIP_AUDIT_VULNERABILITY_SERVICE`, `PIP_AUDIT_OSV_URL`.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
KNOWN_TO_BE_VULNERABLE = "jinja2==2.4.1"
CLEAN, VULNERABLE, NOT_ASKED = 0, 1, 3
ACCEPTED: dict[str, str] = {}
"""Ids of vulnerabilities that do not concern us, and why."""


def main() -> int:
    """Print what was found; return what `make` is to end with."""
    try:
        sees = any(found["vulns"] for found in ask(KNOWN_TO_BE_VULNERABLE))
        found = ask(shipped()) if sees else []
    except (subprocess.SubprocessError, json.JSONDecodeError) as error:
        return not_asked(getattr(error, "stderr", "") or str(error))
    if not sees:
        return not_asked(f"no vulnerability service that knows of {KNOWN_TO_BE_VULNERABLE} answers here")
    if passed_over := [package["name"] for package in found if "skip_reason" in package]:
        return not_asked(f"the service knows nothing of {', '.join(passed_over)}")
    bad = [(package, vuln) for package in found for vuln in package["vulns"] if vuln["id"] not in ACCEPTED]
    for package, vuln in bad:
        better = ", ".join(vuln["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {vuln['id']}, mended in {better}")
    print(f"audited {len(found)} packages: {len(bad)} known vulnerabilities")
    return VULNERABLE if bad else CLEAN


def not_asked(why: str) -> int:
    print(f"NOT AUDITED: {why.strip()}", file=sys.stderr)
    return NOT_ASKED


def shipped() -> str:
    """What the lock has for the product with all its parts, without what only we need."""
    what = ("--frozen", "--no-dev", "--all-extras", "--no-emit-project", "--no-hashes", "--no-annotate", "--no-header")
    uv = [str(ROOT / ".venv/uv/bin/uv"), "export", "--quiet", *what]
    return subprocess.run(uv, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def ask(requirements: str) -> list[dict[str, Any]]:
    """What is known of each package. Raises CalledProcessError if the service does not answer at all."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(requirements)
        file.flush()
        options = ("--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off")
        command = [sys.executable, "-m", "pip_audit", "-r", file.name, *options]
        asked = subprocess.run(command, capture_output=True, text=True)
    if not asked.stdout:
        raise subprocess.CalledProcessError(asked.returncode, "pip-audit", stderr=asked.stderr.strip()[-500:])
    found: list[dict[str, Any]] = json.loads(asked.stdout)["dependencies"]
    return [{"vulns": [], **package} for package in found]


if __name__ == "__main__":
    sys.exit(main())
