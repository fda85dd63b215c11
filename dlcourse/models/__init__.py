"""Flax Linen modules only: a model never sees a loss, an optimizer, a data set or a device."""
