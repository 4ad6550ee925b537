"""`malote dlq` against a running fleet: what a shop's own system got wrong is found, mended, removed."""

import json
from pathlib import Path
from typing import Any

import aio_pika
from uuid_utils.compat import uuid7

from tests.e2e.conftest import Fleet
from tests.e2e.test_cli import asked, is_confirmed, refused
from tests.running import until

ANA = {"id": "ana", "name": "Ana Souza", "email": "ana@example.com", "locale": "en"}


async def sends_nonsense(fleet: Fleet, number: int) -> list[dict[str, Any]]:
    """A shop's system leaves the customer out; the letters that come of it, oldest first."""
    ids = [str(uuid7()) for _ in range(number)]
    async with await aio_pika.connect(fleet.status["shop_amqp_url"]) as connection:
        channel = await connection.channel()
        commands = await channel.get_exchange("commands", ensure=False)
        for id_ in ids:
            order = {"order_id": id_, "currency": "BRL", "lines": [{"sku": "MUG-BLUE", "quantity": 1}]}
            message = aio_pika.Message(json.dumps(order).encode(), message_id=id_, delivery_mode=2)
            await commands.publish(message, "order.place.v1")

    async def look() -> list[dict[str, Any]] | None:
        found = [asked(fleet, "dlq", "list", "--order", id_)["data"] for id_ in ids]
        return [letters[0] for letters in found] if all(found) else None

    return await until(look, "the letters", 60)


async def test_a_dead_letter_is_found_shown_tried_again_in_vain_and_mended(fleet: Fleet, tmp_path: Path) -> None:
    [letter] = await sends_nonsense(fleet, 1)
    groups = asked(fleet, "dlq", "list", "--lane", "orders")["data"]
    assert next(group for group in groups if group["id"] == letter["group"])["message"] == "order.place.v1"
    assert "customer: Field required" in fleet.malote("dlq", "list")
    assert letter["id"] in fleet.malote("dlq", "list", "--group", letter["group"])
    shown = fleet.malote("dlq", "show", letter["id"])
    assert "customer: Field required" in shown
    assert '"sku": "MUG-BLUE"' in shown

    failed = asked(fleet, "dlq", "replay", letter["id"], expect=1)
    assert failed["error"]["code"] == "probe_failed"
    assert "probe_failed" in refused(fleet, "dlq", "replay", letter["id"], "--json", expect=1)
    said = refused(fleet, "dlq", "edit", letter["id"], "--set", "currency=reais", expect=4)
    assert "/body/customer: Field required" in said

    edited = asked(fleet, "dlq", "edit", letter["id"], "--set", f"customer={json.dumps(ANA)}")
    assert edited["result"]["lane"] == "orders"
    is_confirmed(fleet, letter["order_id"])
    assert asked(fleet, "dlq", "show", letter["id"])["state"] == "REPLACED"
    assert "REPLACED" in fleet.malote("dlq", "list", "--order", letter["order_id"], "--state", "REPLACED")
    whats = [(action["kind"], action["by"]) for action in asked(fleet, "dlq", "actions")["data"][:3]]
    assert whats == [("edit", "operator"), ("replay", "operator"), ("replay", "operator")]
    assert edited["result"]["message_id"] not in fleet.malote("dlq", "list")


async def test_dead_letters_are_exported_and_then_purged(fleet: Fleet, tmp_path: Path) -> None:
    letters = await sends_nonsense(fleet, 2)
    file, group = tmp_path / "letters.jsonl", letters[0]["group"]
    assert asked(fleet, "dlq", "export", "--group", group, "--output", str(file))["letters"] == 2
    assert [json.loads(line)["id"] for line in file.read_text().splitlines()] == [letter["id"] for letter in letters]
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert "2 letters" in fleet.malote("dlq", "export", "--group", group, "--output", str(file))
    assert "No such file" in refused(fleet, "dlq", "export", "--output", str(tmp_path / "no" / "x"), expect=1)

    assert "--yes" in refused(fleet, "dlq", "purge", "--group", group, expect=1)
    fleet.malote("dlq", "purge", "--yes", expect=2)
    assert "purged 1" in fleet.malote("dlq", "purge", letters[0]["id"], "--yes")
    assert asked(fleet, "dlq", "purge", "--group", group, "--yes")["result"] == {"purged": 1}
    assert asked(fleet, "dlq", "list", "--group", group)["data"] == []
    assert "there is no dead letter" in refused(fleet, "dlq", "show", letters[0]["id"], expect=4).lower()


async def test_a_replay_can_be_left_alone_and_one_that_has_ended_cannot_be_stopped(fleet: Fleet) -> None:
    [letter] = await sends_nonsense(fleet, 1)
    started = asked(fleet, "dlq", "replay", "--order", letter["order_id"], "--detach")
    assert "probe_failed" in fleet.command("jobs", "watch", started["job_id"]).stderr
    assert "The job has ended" in refused(fleet, "dlq", "stop", started["job_id"], expect=4)
    fleet.malote("dlq", "purge", "--order", letter["order_id"], "--yes")
