"""The tables of deadletters and its only SQL: a module for each subject. `metadata` has the tables of all of them."""

from services.deadletters.store import actions, digests, letters
from services.deadletters.store.base import Base

__all__ = ["actions", "digests", "letters", "metadata"]

metadata = Base.metadata
