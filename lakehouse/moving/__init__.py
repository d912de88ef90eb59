"""A house that moves: into another database, its lake into another folder or bucket (`manage.py move`)."""
