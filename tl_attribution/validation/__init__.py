"""Validation: what a graph predicts, against what the model does."""
