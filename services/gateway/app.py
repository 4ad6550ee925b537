"""The gateway, wired together."""

from services.gateway import handlers
from services.gateway.api import router
from services.gateway.settings import GatewaySettings
from shared.config.settings import load
from shared.service import Service

service = Service(load(GatewaySettings), handlers, router)

if __name__ == "__main__":
    service.run()
