"""Whose mails they are, so that a customer can be shown its own. Of earlier ones nobody knows."""

import sqlalchemy as sa
from alembic import op

revision = "email_0002"
down_revision = "email_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("mails", sa.Column("owner", sa.String(255)))
    op.create_index("ix_mails_owner_id", "mails", ["owner", "id"])


def downgrade() -> None:
    op.drop_index("ix_mails_owner_id", "mails")
    op.drop_column("mails", "owner")
