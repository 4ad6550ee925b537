"""Alembic's environment for every service: one database, the kernel's branch of versions and the service's."""

import asyncio

from alembic import context
from sqlalchemy import Connection, pool, text
from sqlalchemy.ext.asyncio import create_async_engine

from shared.persistence.database import sqlite_engine

_LOCK = 7_310_212_011  # any number, the same for all migrations of one database


def upgrade(connection: Connection) -> None:
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


async def main() -> None:
    """Run the migrations, one process at a time. A later process finds them done."""
    told = context.config.attributes
    if told["url"].get_backend_name() == "sqlite":
        engine = sqlite_engine(told["url"], "BEGIN IMMEDIATE", pool_size=1)
    else:
        engine = create_async_engine(told["url"], poolclass=pool.NullPool, connect_args=told["options"])
    async with engine.connect() as connection:
        if connection.dialect.name == "postgresql":  # held until the connection ends, over all migrations
            await connection.execute(text(f"SELECT pg_advisory_lock({_LOCK})"))
            await connection.commit()
        else:  # all migrations in one transaction: Alembic takes the one that has begun
            await connection.begin()
        await connection.run_sync(upgrade)
        await connection.commit()
    await engine.dispose()


asyncio.run(main())
