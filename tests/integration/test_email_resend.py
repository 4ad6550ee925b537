"""Mails that a server refused are sent again from the gateway, on a real broker and both databases."""

from pathlib import Path
from typing import Any

from services.email.store import MailStatus
from tests.integration.test_email_outgoing import Server, settled
from tests.running import Broker, an_order
from tests.servers import ON_SQLITE
from tests.serving import serving


@ON_SQLITE
async def test_a_failed_mail_is_sent_again_by_a_job(broker: Broker, database_url: str, tmp_path: Path) -> None:
    server = Server()
    server.to_recipient = ["550 5.2.1 mailbox disabled"]
    async with server.listening() as port:
        told: dict[str, Any] = {"smtp_port": port, "sender": "Malote <no-reply@shop.example>"}
        async with (
            serving("email", broker.url, database_url, **told) as email,
            serving("gateway", broker.url, f"sqlite:///{tmp_path}/g.db", email_url=email.url) as gateway,
            gateway.client("olga", "operator") as operator,
            gateway.client("ana") as ana,
            gateway.client("bia") as bia,
        ):
            await broker.publish(an_order(), id_="refused")
            await settled(email.service, status=MailStatus.FAILED)
            (mail,) = (await operator.get("/v1/mails", params={"status": "FAILED"})).json()["data"]
            wish = {"ids": [mail["id"]]}
            assert (await ana.post("/v1/mails/resend", json=wish)).status_code == 403
            assert (await operator.post("/v1/mails/resend", json={})).status_code == 422
            wait = {"Prefer": "wait=20"}
            resent = (await operator.post("/v1/mails/resend", json=wish, headers=wait)).json()
            assert (resent["status"], resent["result"]) == ("SUCCESS", {"resent": 1})
            await settled(email.service)
            again = (await operator.post("/v1/mails/resend", json=wish, headers=wait)).json()
            assert (again["status"], again["error"]["code"]) == ("FAILURE", "none_failed")
            assert (await ana.get(f"/v1/mails/{mail['id']}")).json()["status"] == "SENT"
            assert (await bia.get(f"/v1/mails/{mail['id']}")).status_code == 404
    assert server.message_ids() == ["<refused@shop.example>"]
