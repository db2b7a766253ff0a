"""Dictionaries: features that stand in for a model's MLPs, their formats, names and the Hub."""
