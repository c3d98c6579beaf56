"""Create the table of what detached jobs answered; find jobs by their end; note whether hives were online."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create the table, the index and the column."""
    op.create_table(
        "job_outputs",
        sa.Column("job_id", sa.String, primary_key=True),
        sa.Column("first_sequence", sa.BigInteger, nullable=False),
        sa.Column("frames", sa.LargeBinary, nullable=False),
        sa.Column("lengths", sa.JSON, nullable=False),
    )
    op.create_index("ix_jobs_end_time", "jobs", ["end_time"])
    op.add_column("hives", sa.Column("status", sa.String, nullable=False, server_default="registered"))


def downgrade() -> None:
    """Drop them."""
    op.drop_column("hives", "status")
    op.drop_index("ix_jobs_end_time", "jobs")
    op.drop_table("job_outputs")
