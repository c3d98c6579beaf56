"""Create the tables of jobs and of what they ask for."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "jobs",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("order", sa.BigInteger, nullable=False, unique=True),
        sa.Column("request_id", sa.String, unique=True),
        sa.Column("state", sa.String, nullable=False, index=True),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("model_ref", sa.String, nullable=False),
        sa.Column("type", sa.String, nullable=False),
        sa.Column("priority", sa.String, nullable=False),
        sa.Column("tenant_id", sa.String, nullable=False),
        sa.Column("session_id", sa.String, nullable=False),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("detached", sa.Boolean, nullable=False),
        sa.Column("no_failover", sa.Boolean, nullable=False),
        sa.Column("timeout_s", sa.Float, nullable=False),
        sa.Column("submit_time", sa.Float, nullable=False),
        sa.Column("first_token_time", sa.Float),
        sa.Column("end_time", sa.Float),
        sa.Column("attempts", sa.JSON, nullable=False),
        sa.Column("usage", sa.JSON),
        sa.Column("finish_reason", sa.String, nullable=False),
        sa.Column("failure", sa.JSON),
        sa.Column("trace_id", sa.String, nullable=False),
        sa.Column("seed", sa.BigInteger),
    )
    op.create_table(
        "job_requests",
        sa.Column("job_id", sa.String, primary_key=True),
        sa.Column("spec", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("job_requests")
    op.drop_table("jobs")
