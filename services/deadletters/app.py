"""The deadletters service, wired together."""

from services.deadletters import handlers
from services.deadletters.api import router
from services.deadletters.settings import DeadlettersSettings
from shared.config.settings import load
from shared.service import Service

service = Service(load(DeadlettersSettings), handlers, router)

if __name__ == "__main__":
    service.run()
