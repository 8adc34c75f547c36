"""Alembic's entry point: always called by ``balora.store`` with an open connection in a locked transaction."""

from alembic import context

from balora.store.tables import Base

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
context.run_migrations()
