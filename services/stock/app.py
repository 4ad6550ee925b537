"""The stock service, wired together."""

from services.stock import handlers
from services.stock.api import router
from services.stock.settings import StockSettings
from shared.config.settings import load
from shared.service import Service

service = Service(load(StockSettings), handlers, router)

if __name__ == "__main__":
    service.run()
