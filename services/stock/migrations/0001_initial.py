"""Products with their levels, reservations, adjustments."""

import sqlalchemy as sa
from alembic import op

revision = "stock_0001"
down_revision = None
branch_labels = ("stock",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "products",
        sa.Column("sku", sa.String(40), primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("price", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("low_threshold", sa.Integer, nullable=False),
        sa.Column("on_hand", sa.Integer, nullable=False),
        sa.Column("reserved", sa.Integer, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.CheckConstraint("reserved >= 0", name="reserved_is_not_negative"),
        sa.CheckConstraint("on_hand >= reserved", name="no_more_reserved_than_on_hand"),
    )
    op.create_table(
        "reservations",
        sa.Column("order_id", sa.Uuid, primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("lines", sa.JSON, nullable=False),
    )
    op.create_table(
        "adjustments",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("sku", sa.String(40), nullable=False),
        sa.Column("delta", sa.Integer, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("adjusted_by", sa.String, nullable=False),
        sa.Column("adjusted_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_adjustments_sku", "adjustments", ["sku"])


def downgrade() -> None:
    for table in ("adjustments", "reservations", "products"):
        op.drop_table(table)
