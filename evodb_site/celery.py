"""The Celery application. Start a worker with `celery -A evodb_site worker`, and one `celery -A evodb_site beat`."""

from __future__ import annotations

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "evodb_site.settings")
# As with operators' commands: Django's checks load every URL, 26 MiB and 0.4 s of a worker and of a beat.
os.environ.setdefault("CELERY_SKIP_CHECKS", "true")

from celery import Celery, signals
from django.conf import settings

from lakehouse import allocation, folder_broker

folder_broker.register()
app = Celery("evodb")
app.config_from_object(settings.CELERY)
app.autodiscover_tasks(["lakehouse", "lakehouse.subscriptions"])


@signals.worker_init.connect
def _save_memory(**_: object) -> None:
    allocation.return_what_is_freed()
