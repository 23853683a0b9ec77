"""Run by Alembic: migrates over the connection that `upgrade` opened."""

from __future__ import annotations

from alembic import context

from nodes.console.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    transactional_ddl=True,  # true of SQLite too, as it is opened here
)
with context.begin_transaction():
    context.run_migrations()
