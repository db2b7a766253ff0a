"""Evaluation: how well a dictionary stands in for the MLPs of its model."""
