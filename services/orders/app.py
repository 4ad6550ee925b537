"""The orders service, wired together."""

from services.orders import handlers
from services.orders.api import router
from services.orders.settings import OrdersSettings
from shared.service import Service
from shared.settings import load

service = Service(load(OrdersSettings), handlers, router)

if __name__ == "__main__":
    service.run()
