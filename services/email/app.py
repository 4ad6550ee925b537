"""The email service, with what it sends by."""

from services.email import handlers
from services.email.adapters import mailer
from services.email.api import router
from services.email.settings import EmailSettings
from shared.config.settings import load
from shared.service import Service

settings = load(EmailSettings)
mailer.configure(settings)
service = Service(settings, handlers, router)
service.concerns["mail server"] = mailer.concern
