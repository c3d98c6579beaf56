"""Create the table of scheduling decisions."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "decisions",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("job_id", sa.String, nullable=False, index=True),
        sa.Column("policy", sa.String, nullable=False),
        sa.Column("policy_version", sa.String, nullable=False),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("worker_id", sa.String, nullable=False),
        sa.Column("hive_id", sa.String, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("candidates", sa.JSON, nullable=False),
        sa.Column("decide_time", sa.Float, nullable=False),
        sa.Column("duration_s", sa.Float, nullable=False),
        sa.Column("refusal", sa.String, nullable=False),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("decisions")
