"""Create the table of policies' versions."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "policies",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("version", sa.String, nullable=False),
        sa.Column("language", sa.String, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("compiled_lua", sa.Text, nullable=False),
        sa.Column("sha256", sa.String, nullable=False),
        sa.Column("author", sa.String, nullable=False),
        sa.Column("create_time", sa.Float, nullable=False),
    )
    op.create_index("ix_policies_name", "policies", ["name"])


def downgrade() -> None:
    """Drop it."""
    op.drop_index("ix_policies_name", "policies")
    op.drop_table("policies")
