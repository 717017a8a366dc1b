"""Alembic's entry: run the steps on the connection that `store.database` put into the config."""

from alembic import context

from edgeloop.cloud.store.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
