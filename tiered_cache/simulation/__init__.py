"""Fleets of containers, simulated: which container serves whom, and what its cache then holds."""
