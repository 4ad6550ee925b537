"""The reports service as a process of its own, which can be killed: each part takes a moment longer to write.

python -m tests.integration.programs.reports AMQP_URL DATABASE_URL FOLDER
"""

import asyncio
import sys
from typing import Any

if __name__ == "__main__":
    from fastapi import APIRouter

    from services.reports import handlers
    from services.reports.adapters.storage import Storage
    from shared.messaging import membership
    from shared.service import Service
    from shared.service.process import run
    from tests.running import settings_for

    put = Storage.put

    async def put_slowly(self: Storage, name: str, data: Any) -> int:
        await asyncio.sleep(0.03)
        size = await put(self, name, data)
        await asyncio.sleep(0.03)
        return size

    Storage.put = put_slowly  # type: ignore[method-assign,assignment]
    membership.HEARTBEAT_SECONDS, membership.DEAD_AFTER_SECONDS = 0.1, 1.0
    amqp_url, database_url, folder = sys.argv[1:]
    settings = settings_for("reports", amqp_url, database_url, storage_url=folder, chunk_rows=100, log_level="WARNING")
    run(Service(settings, handlers, APIRouter()))
