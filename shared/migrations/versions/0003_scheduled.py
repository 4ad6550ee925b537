"""Messages that are to be sent at a time."""

import sqlalchemy as sa
from alembic import op

revision = "kernel_0003"
down_revision = "kernel_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "scheduled",
        sa.Column("message_id", sa.String(36), primary_key=True),
        sa.Column("name", sa.String(255)),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("exchange", sa.String(64), nullable=False),
        sa.Column("key", sa.String(128), nullable=False),
        sa.Column("correlation_id", sa.String(255), nullable=False),
        sa.Column("causation_id", sa.String(255)),
        sa.Column("traceparent", sa.String(64)),
        sa.Column("mandatory", sa.Boolean, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_scheduled_due_at", "scheduled", ["due_at", "message_id"])
    op.create_index("ix_scheduled_name", "scheduled", ["name"], unique=True)


def downgrade() -> None:
    op.drop_table("scheduled")
