"""The HTTP of reports: reports, their files, and notifications about them."""

from fastapi import APIRouter

from services.reports.api import downloads, notifications, reports

router = APIRouter(prefix="/v1")
for part in (reports, downloads, notifications):
    router.include_router(part.router)
