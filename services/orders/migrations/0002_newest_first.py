"""Orders are listed by when they were placed: shops give their own ids, which say nothing of time."""

from alembic import op

revision = "orders_0002"
down_revision = "orders_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_orders_placed_at", "orders", ["placed_at", "id"])
    op.create_index("ix_orders_customer_id", "orders", ["customer_id", "placed_at", "id"])
    op.drop_index("ix_orders_customer_id_id", "orders")


def downgrade() -> None:
    op.create_index("ix_orders_customer_id_id", "orders", ["customer_id", "id"])
    op.drop_index("ix_orders_customer_id", "orders")
    op.drop_index("ix_orders_placed_at", "orders")
