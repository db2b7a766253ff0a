"""Graphs, evaluations and validations as pages and pictures."""
