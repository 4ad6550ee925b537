"""The broker's management API, read as its administrator: nodes, queues, bindings."""

from typing import Any
from urllib.parse import quote

import httpx

from deploy.local.environment import Environment
from shared.config.urls import brokers, vhost_in

SECONDS = 4.0


class Management:
    """A client for one command. Every method raises `httpx.HTTPError`, whose text has the password in an address."""

    def __init__(self, here: Environment, seconds: float = SECONDS) -> None:
        self.vhost = quote(vhost_in(brokers(here.amqp_url)[0]), safe="")
        self._http = httpx.Client(
            base_url=here.management_url, verify=here.tls_of().context, trust_env=False, timeout=seconds
        )

    def __enter__(self) -> "Management":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def nodes(self) -> list[dict[str, Any]]:
        """Each node with its alarms: `mem_alarm`, `disk_free_alarm`."""
        found: list[dict[str, Any]] = self._get("/api/nodes")
        return found

    def queues(self) -> dict[str, dict[str, Any]]:
        """Each queue by its name. What a queue holds is up to 5 s old."""
        return {queue["name"]: queue for queue in self._get(f"/api/queues/{self.vhost}")}

    def bindings(self) -> set[tuple[str, str, str]]:
        """All of them, as (exchange, routing key, queue or exchange)."""
        found = self._get(f"/api/bindings/{self.vhost}")
        return {(binding["source"], binding["routing_key"], binding["destination"]) for binding in found}

    def is_tracing(self) -> bool:
        """Whether the broker's tracing is on."""
        return bool(self._get(f"/api/vhosts/{self.vhost}").get("tracing"))

    def trace(self, is_on: bool) -> None:
        """Turn the broker's tracing on or off."""
        self._http.put(f"/api/vhosts/{self.vhost}", json={"tracing": is_on}).raise_for_status()

    def bound_to(self, exchange: str) -> list[dict[str, Any]]:
        """The queues and exchanges that an exchange routes to."""
        found: list[dict[str, Any]] = self._get(f"/api/exchanges/{self.vhost}/{exchange}/bindings/source")
        return found

    def _get(self, path: str) -> Any:
        return self._http.get(path).raise_for_status().json()
