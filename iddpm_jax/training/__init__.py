"""Training: optimiser, state, step, checkpoints and the loop that runs them."""
