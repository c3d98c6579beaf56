"""Create the table of registered hives."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "hives",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("address", sa.String, nullable=False),
        sa.Column("managed", sa.Boolean, nullable=False),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("platform", sa.String, nullable=False),
        sa.Column("version", sa.String, nullable=False),
        sa.Column("last_report_time", sa.Float),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("hives")
