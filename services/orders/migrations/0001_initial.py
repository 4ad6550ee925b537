"""Orders and the price list."""

import sqlalchemy as sa
from alembic import op

revision = "orders_0001"
down_revision = None
branch_labels = ("orders",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "orders",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("job_id", sa.String, nullable=False),
        sa.Column("customer_id", sa.String(64), nullable=False),
        sa.Column("customer", sa.JSON, nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("lines", sa.JSON, nullable=False),
        sa.Column("total", sa.BigInteger),
        sa.Column("reason", sa.String),
        sa.Column("rejected_lines", sa.JSON, nullable=False),
        sa.Column("placed_at", sa.BigInteger, nullable=False),
        sa.Column("confirmed_at", sa.BigInteger),
        sa.Column("rejected_at", sa.BigInteger),
        sa.Column("cancelled_at", sa.BigInteger),
    )
    # A customer's newest orders first: the key of every page that a customer asks for.
    op.create_index("ix_orders_customer_id_id", "orders", ["customer_id", "id"])
    op.create_table(
        "prices",
        sa.Column("sku", sa.String(40), primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("prices")
    op.drop_table("orders")
