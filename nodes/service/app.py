"""A node over HTTP, as an ASGI application. The TLS certificate says who asks (`nodes.service.server`)."""

from __future__ import annotations

from starlette.applications import Starlette

from nodes.service import operator_routes, peer_routes
from nodes.service.node import Node


def make_app(node: Node) -> Starlette:
    """The application of a node. Every route asks who is calling; all but the operator are told no more than whether
    the node is well."""
    app = Starlette(routes=[*peer_routes.ROUTES, *operator_routes.ROUTES])
    app.state.node = node
    app.state.reading = peer_routes.Reading()
    app.router.redirect_slashes = False  # it would send to whatever Host the request names
    return app
