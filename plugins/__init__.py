"""Adapters to host libraries, one file or folder a host, found through entry points."""
