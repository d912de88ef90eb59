"""A Django project as small as it gets: no login, no session, no table of Django's, one SQLite file of its own."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

TODO_DATABASE = os.environ.get("TODO_DATABASE", "todo.sqlite3")
TODO_LAKE_URL = os.environ.get("TODO_LAKE_URL", "http://127.0.0.1:8800")
TODO_LAKE_KEY = os.environ.get("TODO_LAKE_KEY", "")
"""`manage.py accesskey create --name todo --scope ingest,query --events todo`, of the parent."""
TODO_LAKE_PARENT = "events.todo"
"""The parent of the namespace that the key is for."""

SECRET_KEY = secrets.token_urlsafe(50)  # nothing is signed that outlives this process
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "todo.urls"
MIDDLEWARE = ["django.middleware.common.CommonMiddleware", "django.middleware.clickjacking.XFrameOptionsMiddleware"]
TEMPLATES = [
    {"BACKEND": "django.template.backends.django.DjangoTemplates", "DIRS": [Path(__file__).with_name("templates")]}
]
USE_TZ = True
