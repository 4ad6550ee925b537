"""Revoked tokens."""

import structlog
from fastapi import APIRouter

from contracts.http.tokens import RevocationIn, Revocations, RevocationView
from services.gateway.store import revocations
from services.gateway.store.revocations import Revocation, Revoked
from shared.http.auth import OperatorOf
from shared.http.body import Route
from shared.persistence.clock import moment
from shared.service.http import Running

log = structlog.get_logger(__name__)
router = APIRouter(prefix="/v1/revocations", tags=["tokens"], route_class=Route)


@router.post("", status_code=201)
async def revoke(body: RevocationIn, service: Running, who: OperatorOf) -> RevocationView:
    """Revoke a token, or all tokens of a subject: at once at this gateway, within seconds at others. Open event streams
    end as well. A repeated request changes nothing. Operators only."""
    id_ = f"token {body.token_id}" if body.token_id else f"subject {body.subject}"
    before = round(body.before.timestamp() * 1000) if body.before else None
    async with service.database.transaction() as session:
        revocation = await revocations.revoke(session, id_, who.subject, before, service.settings.jwt_max_days)
    revoked: Revoked = service.app.state.revoked
    async with service.database.reading() as session:
        await revoked.read(session)
    log.warning("tokens revoked", what=id_.partition(" ")[0], by=who.subject)
    return _revocation(revocation)


@router.get("")
async def list_revocations(service: Running, who: OperatorOf) -> Revocations:
    """The revoked tokens. Operators only."""
    async with service.database.reading() as session:
        rows = await revocations.newest(session)
    return Revocations(data=tuple(map(_revocation, rows)))


def _revocation(row: Revocation) -> RevocationView:
    kind, _, name = row.id.partition(" ")
    about = {"token_id": name} if kind == "token" else {"subject": name, "before": moment(row.before)}
    return RevocationView(**about, by=row.by, at=moment(row.at))
