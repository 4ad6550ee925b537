"""What happens to databases: they are locked, full, restarted, used up, and broken."""

import asyncio
import contextlib

import asyncpg

from tests.chaos.faults.registry import fault, told
from tests.chaos.world import World

OWN_TABLES = {"orders": "orders", "stock": "products", "email": "mails", "gateway": "jobs", "reports": "orders"}


@fault("databases")
async def somebody_locks_a_database(world: World) -> None:
    """On SQLite for longer than a writer waits for it."""
    service = world.random.choice(["orders", "stock", "email", "gateway"])
    table = world.random.choice(["inbox", "outbox", "processes"])
    world.say(f"  {service}: {table}")
    async with world.locked(service, table):
        await asyncio.sleep(world.random.uniform(3, 13))


@fault("databases")
async def the_disk_of_the_databases_is_full(world: World) -> None:
    with world.full_disk():
        await asyncio.sleep(world.random.uniform(3, 6))
    if world.postgres and not world.postgres.pid:  # it gave up; whoever made room starts it
        await asyncio.to_thread(world.postgres.start)


@fault("databases", only_on="postgresql")
async def postgresql_dies(world: World) -> None:
    assert world.postgres
    await asyncio.to_thread(world.postgres.kill)
    await asyncio.sleep(world.random.uniform(0, 3))
    await asyncio.to_thread(world.postgres.start)


@fault("databases", only_on="postgresql")
async def postgresql_is_restarted(world: World) -> None:
    assert world.postgres
    await asyncio.to_thread(world.postgres.stop)
    await asyncio.to_thread(world.postgres.start)


@fault("databases", only_on="postgresql")
async def statements_and_sessions_are_ended(world: World) -> None:
    """By an administrator, again and again: what a time limit of the server's does."""
    async with world.at_postgres() as connection:
        for _ in range(world.random.randint(5, 15)):
            end = world.random.choice(["pg_cancel_backend", "pg_terminate_backend"])
            await connection.execute(
                f"SELECT {end}(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = ANY($1)"
                " AND (state = 'active' OR random() < 0.2)",
                list(world.fleet.database_urls),
            )
            await asyncio.sleep(world.random.uniform(0.1, 0.5))


@fault("databases", only_on="postgresql")
async def all_connections_to_postgresql_are_used_up(world: World) -> None:
    """Whoever has one keeps it; whoever needs another gets none."""
    assert world.postgres
    async with contextlib.AsyncExitStack() as ours, world.at_postgres() as connection:
        with contextlib.suppress(asyncpg.TooManyConnectionsError):
            while True:
                ours.push_async_callback((await asyncpg.connect(world.postgres.url("postgres"))).close)
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = ANY($1) AND random() < 0.5",
            list(world.fleet.database_urls),
        )
        with contextlib.suppress(asyncpg.TooManyConnectionsError):
            while True:
                ours.push_async_callback((await asyncpg.connect(world.postgres.url("postgres"))).close)
        await asyncio.sleep(world.random.uniform(4, 10))


@fault("databases")
async def a_table_is_missing(world: World) -> None:
    """For a while, as after a restore that went wrong: whoever needs it waits, and gives nothing up."""
    service = world.random.choice(["orders", "stock", "email", "gateway", "reports"])
    table = world.random.choice(["inbox", "outbox", OWN_TABLES[service]])
    world.say(f"  {service}: {table}")
    await world.rename_table(service, table, f"{table}_gone")
    await asyncio.sleep(world.random.uniform(3, 8))
    await world.rename_table(service, f"{table}_gone", table)


@fault("databases", only_on="sqlite")
async def the_file_of_a_database_is_corrupt(world: World) -> None:
    """Its first bytes are not those of a database; a process that starts then meets them first."""
    service = told(world, world.random.choice(["orders", "stock", "gateway"]))
    file = world.file_of(service)
    name = world.a_process(service)
    with file.open("r+b") as header:
        magic = header.read(16)
        header.seek(0)
        header.write(b"this is no data\0")
        header.flush()
        world.kill(name)
        world.process(name).start()
        await asyncio.sleep(world.random.uniform(4, 8))
        header.seek(0)
        header.write(magic)


@fault("alone")
async def a_service_starts_on_a_database_that_is_not_migrated(world: World) -> None:
    """It takes nothing, gives nothing up, and says so; with the right database it goes on where it was."""
    service = told(world, world.random.choice(["orders", "stock", "email"]))
    names = world.fleet.of(service)
    for name in names:
        world.kill(name)
    async with world.empty_database(service):
        for name in names:
            world.process(name).start()
        await asyncio.sleep(world.random.uniform(5, 8))
        if any([await world.process(name).is_ready() for name in names]):
            world.shop.surprises.append(f"{service} is ready on an empty database")
        for name in names:
            world.process(name).kill()
    for name in names:
        world.process(name).start()
