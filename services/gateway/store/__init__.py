"""The gateway's tables and its only SQL, a file for each subject."""

from sqlalchemy.orm import registry

from shared.persistence.table import TableModel


class Base(TableModel, registry=registry()):
    """This service's own metadata."""


metadata = Base.metadata
