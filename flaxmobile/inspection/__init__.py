"""What looks at a run and trains nothing: dry run, preview, input speed, a step by itself."""
