"""Upkeep of tables: forget old snapshots, delete their files, merge small files, find files of no table."""
