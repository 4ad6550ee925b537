"""Messages in the outbox that were received and are sent on: to one lane, with properties of their own."""

import sqlalchemy as sa
from alembic import op

revision = "kernel_0002"
down_revision = "kernel_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("outbox", sa.Column("lane", sa.String(64)))
    op.add_column("outbox", sa.Column("properties", sa.JSON))


def downgrade() -> None:
    op.drop_column("outbox", "properties")
    op.drop_column("outbox", "lane")
