"""A fleet that is running takes in a service that is new."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import own_ports, until
from tests.e2e.test_readme import copy_checkout, write_loyalty

DONE = 'malote_messages_total{lane="loyalty",message="order.confirmed.v1",outcome="done",service="loyalty"} 1.0'


def has_taken(port: int) -> bool:
    return DONE in httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text


@pytest.mark.timeout(600)
async def test_a_running_fleet_takes_in_a_new_service_without_an_end(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    copy_checkout(scratch)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALOTE_")}
    environment = {**inherited, **own_ports(), "PYTHONPATH": str(scratch), "MALOTE_DATA": str(tmp_path / "data")}

    async def malote(*arguments: str) -> str:
        command = [sys.executable, "-m", "deploy.cli.app", *arguments]
        done = await asyncio.to_thread(
            subprocess.run, command, cwd=scratch, env=environment, capture_output=True, text=True, timeout=400
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    try:
        await malote("up", "--detach")
        before = json.loads(await malote("status", "--json"))
        write_loyalty(scratch)
        said = await malote("up", "--detach")
        assert "topology applied" in said
        after = json.loads(await malote("status", "--json"))
        assert {one["name"] for one in after["services"]} - {one["name"] for one in before["services"]} == {"loyalty"}
        assert all(one["ready"] for one in after["services"])
        brokers = [next(one for one in each["others"] if one["name"] == "broker") for each in (before, after)]
        assert brokers[0]["pid"] == brokers[1]["pid"]
        await malote("orders", "place", "--sku", "COFFEE-1KG:2", "--wait", "20")
        port = next(one["port"] for one in after["services"] if one["name"] == "loyalty")
        await asyncio.to_thread(until, lambda: has_taken(port), "the new service to give points")

        kernel = scratch / "shared/service/http.py"  # as an upgrade changes what all services have
        old, new = '"status": "ok"', '"status": "new"'
        text = kernel.read_text()
        assert old in text
        kernel.write_text(text.replace(old, new))
        await malote("restart", "stock")
        said_by = {one["name"]: httpx.get(f"http://127.0.0.1:{one['port']}/livez").json() for one in after["services"]}
        assert [name for name, answer in said_by.items() if answer == {"status": "new"}] == ["stock"]
    finally:
        await malote("down")
