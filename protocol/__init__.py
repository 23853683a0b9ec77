"""Messages, roles and sub-protocols of a query. Knows nothing of HTTP: state machines without input or output."""
