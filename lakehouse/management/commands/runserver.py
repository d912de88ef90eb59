"""`manage.py runserver` serves sockets too: daphne's, without its app, which would load Twisted into every process."""

from daphne.management.commands.runserver import Command

__all__ = ["Command"]
