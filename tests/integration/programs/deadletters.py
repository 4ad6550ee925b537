"""The deadletters service as a process of its own, to be killed; it stores and sends few letters at a time.

python -m tests.integration.programs.deadletters AMQP_URL DATABASE_URL PORT
"""

import sys

if __name__ == "__main__":
    from services.deadletters import domain, handlers, periodic
    from services.deadletters.api import router
    from shared.messaging import membership
    from shared.service import Service
    from shared.service.process import run
    from tests.running import settings_for

    membership.HEARTBEAT_SECONDS, membership.DEAD_AFTER_SECONDS = 0.1, 1.0
    domain.AT_ONCE = 40
    amqp_url, database_url, port = sys.argv[1:]
    settings = settings_for("deadletters", amqp_url, database_url, port=int(port), batch_limit=20, log_level="WARNING")
    run(Service(settings, handlers, router, periodic))
