"""Jobs have the role of their owner."""

import sqlalchemy as sa
from alembic import op

revision = "gateway_0003"
down_revision = "gateway_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The default is for processes of the previous version, which may still insert rows.
    op.add_column("jobs", sa.Column("role", sa.String(16), nullable=False, server_default="customer"))
    op.execute("UPDATE jobs SET role = 'operator' WHERE kind NOT LIKE 'order.%' AND kind NOT LIKE 'report.%'")


def downgrade() -> None:
    op.execute("ALTER TABLE jobs DROP COLUMN role")
