"""A node's configuration: `node.toml`, what it may say, where the node keeps things."""
