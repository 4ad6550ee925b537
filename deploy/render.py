"""`make deploy`: everything that runs the services elsewhere, written from the code and each service's `service.toml`.

The templates in deploy/templates have what people wrote; the files that are made of them are committed, so that nobody
needs this to deploy, and a test holds them equal. Square brackets mark what is filled in: YAML, Prometheus and Go use
the curly ones.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from contracts.flow import COLLECTOR, LANES
from deploy.services import Deployed, ServiceFile, Wrong, deployed

ROOT = Path(__file__).resolve().parents[1]
K8S = "deploy/k8s"
WHOLE = {
    "docker-compose.yml": "docker-compose.yml",
    "env.example": ".env.example",
    "Dockerfile": "deploy/Dockerfile",
    "prometheus/prometheus.yml": "deploy/prometheus/prometheus.yml",
    "prometheus/alerts.yml": "deploy/prometheus/alerts.yml",
    "prometheus/alerts_test.yml": "deploy/prometheus/alerts_test.yml",
    "k8s/topology.yaml": f"{K8S}/base/platform/topology.yaml",
    "k8s/production.yaml": f"{K8S}/overlays/production/kustomization.yaml",
    "k8s/dev/kustomization.yaml": f"{K8S}/overlays/dev/kustomization.yaml",
    "k8s/dev/databases.sql": f"{K8S}/overlays/dev/databases.sql",
}
"""Templates of files that are about all services."""
EACH = {
    "k8s/base/kustomization.yaml": K8S + "/base/{}/kustomization.yaml",
    "k8s/base/network.yaml": K8S + "/base/{}/network.yaml",
    "k8s/base/scaling.yaml": K8S + "/base/{}/scaling.yaml",
    "k8s/production/kustomization.yaml": K8S + "/overlays/production/{}/kustomization.yaml",
}
"""Templates of which each service has a file."""
MANUAL = "docs/running.md"
BEGIN, END = "<!-- written by `make deploy` -->\n", "<!-- end of what is written -->\n"
_DOT = r"\\\\."
"""A dot in a regular expression in a PromQL string in JSON."""
_LANES = re.compile(rf"lane{re.escape(_DOT)}\([^$)]+\)")
"""The lanes in a query of a dashboard."""


def rendered() -> dict[str, str]:
    """Every file by its path, as it should be. Raises `Wrong`."""
    services = deployed()
    templates = Environment(  # noqa: S701 - no HTML
        loader=FileSystemLoader(ROOT / "deploy/templates"),
        block_start_string="[%", block_end_string="%]",
        variable_start_string="[[", variable_end_string="]]",
        comment_start_string="[#", comment_end_string="#]",
        trim_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined,
    )  # fmt: skip
    names = [service.name for service in services]
    templates.globals.update(
        services=services,
        names=", ".join(names),
        default=ServiceFile(port=1),
        lanes_pattern="|".join(LANES).replace(".", r"\\."),
        in_order=lambda some: f"[{', '.join(name for name in names if name in some)}]",
    )
    files = {path: templates.get_template(name).render() for name, path in WHOLE.items()}
    for name, path in EACH.items():
        template = templates.get_template(name)
        files |= {path.format(service.name): template.render(s=service) for service in services}
    return files | dict(_dashboards()) | {MANUAL: _manual(services)}


def _dashboards() -> Iterator[tuple[str, str]]:
    """They are drawn in Grafana: only the lanes in their queries are ours to write."""
    lanes = "|".join(LANES).replace(".", _DOT)
    for path in sorted((ROOT / "deploy/grafana/dashboards").glob("*.json")):
        text = path.read_text(encoding="utf-8")
        yield str(path.relative_to(ROOT)), _LANES.sub(lambda _: f"lane{_DOT}({lanes})", text)


def _manual(services: list[Deployed]) -> str:
    text = (ROOT / MANUAL).read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise Wrong(f"{MANUAL} lacks {BEGIN.strip()} or {END.strip()}")
    rows = ["| service | port | lanes | its database | when it is down |", "|---|---|---|---|---|"]
    for s in services:
        lanes = ", ".join(f"`{lane if lane == s.name else lane.removeprefix(s.name)}`" for lane in s.lanes) or "none"
        lanes += ", and the dead letters of each lane" if s.name == COLLECTOR else ""
        rows.append(f"| {s.name} | {s.port} | {lanes} | {s.keeps} | {s.when_down} |")
    return before + begin + "\n" + "\n".join(rows) + "\n\n" + end + after


def stale(files: dict[str, str]) -> list[str]:
    """Files of services that are no more."""
    folders = (path.rpartition("/")[0].replace("{}", "*") for path in EACH.values())
    there = {str(path.relative_to(ROOT)) for folder in set(folders) for path in ROOT.glob(f"{folder}/*")}
    kept = {f"{K8S}/{part}/platform" for part in ("base", "overlays/production")}
    return sorted(path for path in there - files.keys() if path.rpartition("/")[0] not in kept)


def write() -> None:
    """Write what has changed, and say what. Raises SystemExit with what is wrong in a service.toml."""
    try:
        files = rendered()
    except Wrong as error:
        sys.exit(str(error))
    for path in stale(files):
        (ROOT / path).unlink()
        print(f"removed {path}")
    for path, text in files.items():
        target = ROOT / path
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
            print(path)


if __name__ == "__main__":
    write()
