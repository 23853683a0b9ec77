"""One query at a node: admitted, driven, scored, counted."""
