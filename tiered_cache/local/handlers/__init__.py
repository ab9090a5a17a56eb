"""Handlers that are invoked on the local Lambda; this folder is the function's directory."""
