"""The tables of reports and its only SQL: a module for each subject. `metadata` has the tables of all of them.

Every fact in the read model carries the revision of the read model at which it became known. Each transaction that
changes the read model makes one revision. So the content of revision R can be read at any later time: an export that
takes many transactions, and that may be killed between them, still shows one moment.
"""

from services.reports.store import choices, notifications, read_model, reports
from services.reports.store.base import Base

__all__ = ["choices", "metadata", "notifications", "read_model", "reports"]

metadata = Base.metadata
