"""One network for every width, sparsity and number of bits, on a line of weights."""
