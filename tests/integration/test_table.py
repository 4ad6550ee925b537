"""Rows that are made without SQLModel's own way of making them."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import JSON, Column, inspect, select
from sqlalchemy.orm import registry
from sqlmodel import Field

from shared.persistence.database import Database
from shared.persistence.table import TableModel


class Base(TableModel, registry=registry()):
    """This test's own metadata."""


class Parcel(Base, table=True):
    id: int = Field(primary_key=True)
    address: str
    pieces: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    weight: int | None = None
    state: str = "PACKED"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    await database.create_all(Base.metadata)
    yield database
    await database.dispose()


def test_a_field_that_is_left_out_has_its_default_and_shares_it_with_no_other_row() -> None:
    one, other = Parcel(id=1, address="Rua A"), Parcel(id=2, address="Rua B", state="SENT")
    one.pieces.append("book")
    assert (one.pieces, one.weight, one.state) == (["book"], None, "PACKED")
    assert (other.pieces, other.state) == ([], "SENT")


def test_a_field_that_does_not_exist_is_named() -> None:
    with pytest.raises(TypeError, match="Parcel has no adress"):
        Parcel(id=1, adress="Rua A")


async def test_a_row_is_inserted_whole_and_what_is_changed_in_it_later_is_updated(database: Database) -> None:
    async with database.transaction() as session:
        parcel = Parcel(id=1, address="Rua A", pieces=["book"])
        session.add(parcel)
        parcel.weight = 3
        await session.flush()
        parcel.state, parcel.pieces = "SENT", [*parcel.pieces, "pen"]
        assert inspect(parcel).attrs.state.history.deleted == ["PACKED"]
    async with database.reading() as session:
        (found,) = (await session.scalars(select(Parcel))).all()
    assert found.model_dump() == {
        "id": 1, "address": "Rua A", "pieces": ["book", "pen"], "weight": 3, "state": "SENT",
    }  # fmt: skip


async def test_a_row_without_what_it_must_have_is_refused_by_the_database(database: Database) -> None:
    with pytest.raises(Exception, match=r"(?i)not.null"):
        async with database.transaction() as session:
            session.add(Parcel(id=1))
