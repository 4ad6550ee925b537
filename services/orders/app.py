"""The orders service, wired together."""

from services.orders import handlers
from services.orders.api import router
from services.orders.settings import OrdersSettings
from shared.config.settings import load
from shared.service import Service

service = Service(load(OrdersSettings), handlers, router)

if __name__ == "__main__":
    service.run()
