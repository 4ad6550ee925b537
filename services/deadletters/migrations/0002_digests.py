"""What operators were told by mail, and what is gathered for the next time."""

import sqlalchemy as sa
from alembic import op

revision = "deadletters_0002"
down_revision = "deadletters_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "digests",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("letters", sa.Integer, nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("sent_at", sa.BigInteger),
    )
    op.create_index("ix_digests_sent_at", "digests", ["sent_at"])


def downgrade() -> None:
    op.drop_table("digests")
