"""What a node keeps of queries, and what it exports of that."""
