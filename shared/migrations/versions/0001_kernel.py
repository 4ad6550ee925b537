"""The kernel's tables: inbox, attempts, outbox, processes."""

import sqlalchemy as sa
from alembic import op

revision = "kernel_0001"
down_revision = None
branch_labels = ("kernel",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "inbox",
        sa.Column("message_id", sa.String(255), primary_key=True),
        sa.Column("lane", sa.String(64), primary_key=True),
        sa.Column("received_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_inbox_received_at", "inbox", ["received_at"])
    op.create_table(
        "attempts",
        sa.Column("message_id", sa.String(255), primary_key=True),
        sa.Column("lane", sa.String(64), primary_key=True),
        sa.Column("owner", sa.String(36), nullable=False),
        sa.Column("before", sa.String(36)),
        sa.Column("tries", sa.Integer, nullable=False),
    )
    op.create_table(
        "outbox",
        sa.Column("message_id", sa.String(36), primary_key=True),
        sa.Column("owner", sa.String(36), nullable=False),
        sa.Column("exchange", sa.String(64), nullable=False),
        sa.Column("key", sa.String(128), nullable=False),
        sa.Column("correlation_id", sa.String(255), nullable=False),
        sa.Column("causation_id", sa.String(255)),
        sa.Column("traceparent", sa.String(64)),
        sa.Column("sent_at", sa.Float, nullable=False),
        sa.Column("mandatory", sa.Boolean, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_outbox_owner", "outbox", ["owner", "message_id"])
    op.create_table(
        "processes",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("seen_at", sa.Float, nullable=False),
    )


def downgrade() -> None:
    for table in ("processes", "outbox", "attempts", "inbox"):
        op.drop_table(table)
