"""Reports, and who is told of them, in the role in which they were asked for."""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "reports_0002"
down_revision = "reports_0001"
branch_labels = None
depends_on = None

OPERATORS = "\x1f"
"""Before the name of a reader who is told as an operator."""


def upgrade() -> None:
    # The default is for processes of the version before, which may still write while this is done.
    op.add_column("reports", sa.Column("role", sa.String(16), nullable=False, server_default="customer"))
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":  # SQLite holds nobody to a length
        for table in ("notifications", "choices"):
            op.alter_column(table, "reader", type_=sa.String(256))
    operators: dict[str, set[str]] = {}
    for id_, owner, wish in connection.execute(sa.text("SELECT id, owner, wish FROM reports")).all():
        if (_read(wish).get("filters") or {}).get("customer_id") != owner:  # a customer's is about itself, always
            operators.setdefault(owner, set()).add(str(id_).replace("-", ""))
            connection.execute(sa.text("UPDATE reports SET role = 'operator' WHERE id = :id"), {"id": id_})
    for owner, reports in operators.items():
        _tell_as_operator(connection, owner, reports)


def _tell_as_operator(connection: Any, owner: str, reports: set[str]) -> None:
    """What an operator was told of its reports is the operator's alone. How to be told was chosen for both."""
    about = {"owner": owner, "reader": OPERATORS + owner}
    told = sa.text("SELECT id, content FROM notifications WHERE reader = :owner")
    for id_, content in connection.execute(told, about).all():
        if str(_read(content).get("report_id")).replace("-", "") in reports:
            move = sa.text("UPDATE notifications SET reader = :reader WHERE id = :id")
            connection.execute(move, {"id": id_, **about})
    columns = "mail, in_app, email, locale"
    copy = f"INSERT INTO choices SELECT :reader, {columns} FROM choices WHERE reader = :owner"  # noqa: S608
    connection.execute(sa.text(copy), about)


def _read(value: Any) -> Any:
    """JSON comes as text from SQLite, and read from PostgreSQL."""
    return json.loads(value) if isinstance(value, str) else value


def downgrade() -> None:
    op.execute("ALTER TABLE reports DROP COLUMN role")
