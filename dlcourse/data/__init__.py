"""Where batches come from: sources give arrays, recipes turn them into batch = f(seed, step)."""
