"""Configuration, optimiser, the compiled step, the loop, checkpoints and the report."""
