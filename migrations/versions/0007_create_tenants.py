"""Create the tables of tenants and of what they used, and an index to list decisions by time."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Create the tables and the index."""
    op.create_table(
        "tenants",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("weight", sa.Float, nullable=False),
        sa.Column("max_concurrent_jobs", sa.BigInteger),
        sa.Column("max_tokens_daily", sa.BigInteger),
        sa.Column("max_vram_mb", sa.BigInteger),
        sa.Column("allowed_models", sa.JSON, nullable=False),
        sa.Column("create_time", sa.Float, nullable=False),
        sa.Column("request_id", sa.String, nullable=False),
    )
    op.create_table(
        "usage",
        sa.Column("tenant_id", sa.String, primary_key=True),
        sa.Column("day", sa.BigInteger, primary_key=True),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("jobs", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_decisions_decide_time", "decisions", ["decide_time"])


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_decisions_decide_time", "decisions")
    op.drop_table("usage")
    op.drop_table("tenants")
