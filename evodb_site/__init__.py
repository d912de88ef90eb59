"""Composition only: settings, URL and socket routing, Celery. Decisions live in lakehouse."""
