"""The handbook's formulas and worked examples as small pure functions, free of Flax."""
