"""Keep with what a tenant used what it had been served by then, as fair shares count it."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the column; what was served before is not known."""
    op.add_column("usage", sa.Column("served", sa.BigInteger, nullable=False, server_default="0"))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("usage", "served")
