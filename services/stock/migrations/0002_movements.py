"""When reservations were made, taken and released; times of adjustments in milliseconds.

Reservations from before keep no times: nobody wrote them down.
"""

import sqlalchemy as sa
from alembic import op

revision = "stock_0002"
down_revision = "stock_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("reserved_at", "taken_at", "released_at"):
        op.add_column("reservations", sa.Column(name, sa.BigInteger))
    op.execute("UPDATE adjustments SET adjusted_at = adjusted_at * 1000")


def downgrade() -> None:
    op.execute("UPDATE adjustments SET adjusted_at = adjusted_at / 1000")
    for name in ("released_at", "taken_at", "reserved_at"):
        op.drop_column("reservations", name)
