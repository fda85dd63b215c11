"""Weights of other frameworks as those of the models here."""
