"""Hosts: what a model must offer to be traced, and one forward pass of it, frozen."""
