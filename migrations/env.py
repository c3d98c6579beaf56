"""Runs the migrations on the connection the queen hands over, or on the URL of the alembic configuration."""

from alembic import context
from sqlalchemy import create_engine

config = context.config


def run() -> None:
    """Migrates up or down within one transaction."""
    engine = create_engine(config.get_main_option("sqlalchemy.url", ""))
    try:
        with engine.begin() as connection:
            context.configure(connection=connection, render_as_batch=True)
            context.run_migrations()
    finally:
        engine.dispose()


run()
