"""Rows that wait for an object store that is away."""
