"""What an operator does at a node: set up, enrol, back up, ask, look."""
