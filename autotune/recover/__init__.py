"""Recovery by training: a compressed graph in torch, taught by the original; the weights go back into the graph."""
