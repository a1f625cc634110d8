"""Subnetworks of frozen random weights, found by gates: accuracy, sparsity, steps to a target."""
