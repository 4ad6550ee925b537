"""Letters, what they carry, their groups, and what operators did."""

import sqlalchemy as sa
from alembic import op

revision = "deadletters_0001"
down_revision = None
branch_labels = ("deadletters",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "letters",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("lane", sa.String(64), nullable=False),
        sa.Column("message", sa.String(255), nullable=False),
        sa.Column("group_id", sa.String(12), nullable=False),
        sa.Column("message_id", sa.String(255)),
        sa.Column("correlation_id", sa.String(255)),
        sa.Column("order_id", sa.Uuid),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("exception", sa.String(255)),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("first_at", sa.BigInteger, nullable=False),
        sa.Column("last_at", sa.BigInteger, nullable=False),
        sa.Column("service", sa.String(64)),
        sa.Column("version", sa.String(64)),
        sa.Column("host", sa.String(255)),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("action_id", sa.Uuid),
        sa.Column("settled_at", sa.BigInteger),
        sa.Column("history", sa.JSON, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
    )
    # The newest first, of one group too; and what a count by groups or lanes reads, so that it reads no rows.
    op.create_index("ix_letters_state_id", "letters", ["state", "id"])
    op.create_index("ix_letters_group_state_id", "letters", ["group_id", "state", "id"])
    op.create_index("ix_letters_state_group", "letters", ["state", "group_id", "first_at", "last_at"])
    op.create_index("ix_letters_state_lane_id", "letters", ["state", "lane", "id"])
    op.create_index("ix_letters_order_state_id", "letters", ["order_id", "state", "id"])
    op.create_index("ix_letters_job_state_id", "letters", ["correlation_id", "state", "id"])
    op.create_table(
        "contents",
        sa.Column("letter_id", sa.Uuid, primary_key=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("properties", sa.JSON, nullable=False),
        sa.Column("headers", sa.JSON, nullable=False),
        sa.Column("traceback", sa.Text),
    )
    op.create_table(
        "letter_groups",
        sa.Column("id", sa.String(12), primary_key=True),
        sa.Column("lane", sa.String(64), nullable=False),
        sa.Column("message", sa.String(255), nullable=False),
        sa.Column("reason", sa.String, nullable=False),
    )
    op.create_table(
        "actions",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("by", sa.String(255), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("wish", sa.JSON, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("detail", sa.String),
        sa.Column("total", sa.Integer),
        sa.Column("sent", sa.Integer, nullable=False),
        sa.Column("done", sa.Integer, nullable=False),
        sa.Column("failed", sa.Integer, nullable=False),
        sa.Column("told", sa.Integer, nullable=False),
        sa.Column("is_exhausted", sa.Boolean, nullable=False),
        sa.Column("rate", sa.Float),
        sa.Column("paced_at", sa.BigInteger, nullable=False),
        sa.Column("cursor", sa.Uuid),
        sa.Column("until_id", sa.Uuid),
        sa.Column("traceparent", sa.String(64)),
        sa.Column("ended_at", sa.BigInteger),
    )
    # What has not ended is looked for several times a second; what has is never removed.
    is_running = sa.text("ended_at IS NULL")
    op.create_index("ix_actions_running", "actions", ["id"], postgresql_where=is_running, sqlite_where=is_running)


def downgrade() -> None:
    for table in ("actions", "letter_groups", "contents", "letters"):
        op.drop_table(table)
