"""Create the table of who was in charge of scheduling."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "policy_activations",
        sa.Column("order", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("version", sa.String, nullable=False),
        sa.Column("time", sa.Float, nullable=False),
        sa.Column("turn", sa.String, nullable=False),
        sa.Column("why", sa.String, nullable=False),
        sa.Column("request_id", sa.String, unique=True),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("policy_activations")
