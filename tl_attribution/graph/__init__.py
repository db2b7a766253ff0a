"""The attribution graph: nodes, edges, influence, paths, supernodes, comparison and files."""
