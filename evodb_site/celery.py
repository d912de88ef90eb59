"""The Celery application. Start a worker with `celery -A evodb_site worker -B`."""

from __future__ import annotations

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "evodb_site.settings")

from celery import Celery

app = Celery("evodb")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["lakehouse"])
