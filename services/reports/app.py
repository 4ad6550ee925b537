"""The reports service, with what it exports by."""

from services.reports import handlers
from services.reports.adapters import exporter
from services.reports.api import router
from services.reports.settings import ReportsSettings
from shared.config.settings import load
from shared.service import Service

settings = load(ReportsSettings)
service = Service(settings, handlers, router)
exporter.configure(settings, service.database)
