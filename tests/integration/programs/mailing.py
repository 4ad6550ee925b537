"""The email service as a process of its own.

python -m tests.integration.programs.mailing AMQP_URL DATABASE_URL SMTP_PORT
"""

import sys
from typing import Any

from services.email import handlers
from services.email.api import router
from shared.messaging import membership
from shared.service import Service
from shared.service.process import run
from tests.running import settings_for

if __name__ == "__main__":
    amqp_url, database_url, port = sys.argv[1:]
    membership.HEARTBEAT_SECONDS, membership.DEAD_AFTER_SECONDS = 0.1, 1.0
    settings: Any = settings_for("email", amqp_url, database_url, smtp_port=int(port), log_level="WARNING")
    run(Service(settings, handlers, router))
