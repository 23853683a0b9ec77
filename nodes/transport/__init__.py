"""How units of the protocol travel between nodes."""
