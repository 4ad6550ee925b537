"""Databases: transactions, migrations, the database's clock, changes that processes tell each other."""
