"""The read model, reports, notifications."""

import sqlalchemy as sa
from alembic import op

revision = "reports_0001"
down_revision = None
branch_labels = ("reports",)
depends_on = None


def upgrade() -> None:
    model = op.create_table(
        "read_model",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("emptied_at", sa.BigInteger, nullable=False),
        sa.Column("filled_at", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(model, [{"id": 1, "revision": 0, "emptied_at": 0, "filled_at": 0}])
    op.create_table(
        "orders",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("placed_at", sa.BigInteger, nullable=False),
        sa.Column("customer_id", sa.String(64), nullable=False),
        sa.Column("customer_name", sa.String, nullable=False),
        sa.Column("customer_email", sa.String, nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("total", sa.BigInteger),
        sa.Column("amount", sa.String),
        sa.Column("lines", sa.Integer, nullable=False),
        sa.Column("pieces", sa.Integer, nullable=False),
        sa.Column("reason", sa.String),
        sa.Column("confirmed_at", sa.BigInteger),
        sa.Column("confirmed_revision", sa.BigInteger),
        sa.Column("rejected_at", sa.BigInteger),
        sa.Column("rejected_revision", sa.BigInteger),
        sa.Column("cancelled_at", sa.BigInteger),
        sa.Column("cancelled_revision", sa.BigInteger),
    )
    op.create_table(
        "order_lines",
        sa.Column("order_id", sa.Uuid, primary_key=True),
        sa.Column("sku", sa.String(40), primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("placed_at", sa.BigInteger, nullable=False),
        sa.Column("name", sa.String),
        sa.Column("quantity", sa.Integer, nullable=False),
        sa.Column("unit_price", sa.BigInteger),
        sa.Column("price", sa.String),
        sa.Column("total", sa.BigInteger),
        sa.Column("amount", sa.String),
    )
    op.create_table(
        "stock_movements",
        sa.Column("id", sa.String(96), primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("moved_at", sa.BigInteger, nullable=False),
        sa.Column("sku", sa.String(40), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("on_hand", sa.Integer, nullable=False),
        sa.Column("reserved", sa.Integer, nullable=False),
        sa.Column("order_id", sa.Uuid),
        sa.Column("reason", sa.String),
        sa.Column("adjusted_by", sa.String),
    )
    # The orders in which exports read: by time, and by key where times are the same.
    op.create_index("ix_orders_placed_at", "orders", ["placed_at", "id"])
    op.create_index("ix_orders_customer_id", "orders", ["customer_id", "placed_at", "id"])  # whoever asks for its own
    op.create_index("ix_order_lines_placed_at", "order_lines", ["placed_at", "order_id", "sku"])
    op.create_index("ix_stock_movements_moved_at", "stock_movements", ["moved_at", "id"])
    op.create_table(
        "reports",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("job_id", sa.String(255), nullable=False),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("email", sa.String(254)),
        sa.Column("wish", sa.JSON, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("chunk_rows", sa.Integer, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("filename", sa.String, nullable=False),
        sa.Column("reason", sa.String),
        sa.Column("detail", sa.String),
        sa.Column("rows", sa.BigInteger),
        sa.Column("bytes", sa.BigInteger),
        sa.Column("sha256", sa.String(64)),
        sa.Column("link_key", sa.String(64)),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("expires_at", sa.BigInteger),
    )
    op.create_index("ix_reports_job_id", "reports", ["job_id"])
    op.create_index("ix_reports_owner_id", "reports", ["owner", "id"])
    op.create_index("ix_reports_expires_at", "reports", ["expires_at"])
    op.create_table(
        "notifications",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("reader", sa.String(255), nullable=False),
        sa.Column("content", sa.JSON, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("read_at", sa.BigInteger),
    )
    op.create_index("ix_notifications_reader_id", "notifications", ["reader", "id"])
    op.create_table(
        "choices",
        sa.Column("reader", sa.String(255), primary_key=True),
        sa.Column("mail", sa.Boolean, nullable=False),
        sa.Column("in_app", sa.Boolean, nullable=False),
        sa.Column("email", sa.String(254)),
        sa.Column("locale", sa.String(8), nullable=False),
    )


def downgrade() -> None:
    for table in ("choices", "notifications", "reports", "stock_movements", "order_lines", "orders", "read_model"):
        op.drop_table(table)
