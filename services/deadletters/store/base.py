"""What all tables of deadletters share."""

from sqlalchemy.orm import registry

from shared.persistence.table import TableModel


class Base(TableModel, registry=registry()):
    """This service's own metadata."""
