"""A master's course on deep learning as one JAX/Flax research codebase."""

__version__ = "0.1.0"
