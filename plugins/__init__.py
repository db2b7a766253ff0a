"""Adapters to host libraries, one module or package per host, found through entry points."""
