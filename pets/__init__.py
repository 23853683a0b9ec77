"""Privacy-enhancing technologies: embeddings, templates, lattice, shares, sketches. Knows no roles and no messages."""
