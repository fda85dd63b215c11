"""Figures and tables made from a workdir."""
