"""Jobs about any resource, not only orders."""

import sqlalchemy as sa
from alembic import op

revision = "gateway_0002"
down_revision = "gateway_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("ix_jobs_order_id", "jobs")
    op.execute("ALTER TABLE jobs RENAME COLUMN order_id TO resource_id")
    op.execute("ALTER TABLE idempotency_keys RENAME COLUMN order_id TO resource_id")
    op.create_index("ix_jobs_resource_id", "jobs", ["resource_id"])
    # A caller's reports are counted before it may have another. Without `ended_at`, so that a job's end stays a change
    # of no index.
    reports = sa.text("kind = 'report.create'")
    op.create_index("ix_jobs_reports", "jobs", ["owner"], postgresql_where=reports, sqlite_where=reports)


def downgrade() -> None:
    op.drop_index("ix_jobs_reports", "jobs")
    op.drop_index("ix_jobs_resource_id", "jobs")
    op.execute("ALTER TABLE idempotency_keys RENAME COLUMN resource_id TO order_id")
    op.execute("ALTER TABLE jobs RENAME COLUMN resource_id TO order_id")
    op.create_index("ix_jobs_order_id", "jobs", ["order_id"])
