"""What survives the queen: SQLAlchemy tables behind the store port, written in groups."""
