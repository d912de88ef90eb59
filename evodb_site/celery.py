"""The Celery application. Start a worker with `celery -A evodb_site worker`, and one `celery -A evodb_site beat`."""

from __future__ import annotations

import logging
import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "evodb_site.settings")
# As with operators' commands: Django's checks load every URL, 26 MiB and 0.4 s of a worker and of a beat.
os.environ.setdefault("CELERY_SKIP_CHECKS", "true")

from celery import Celery, Task, signals
from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError
from kombu.exceptions import OperationalError as BrokerAway

from lakehouse import allocation, announcement, folder_broker
from lakehouse.errors import LakehouseError
from lakehouse.management import unprepared

log = logging.getLogger(__name__)

folder_broker.register()


class Told(Task):
    """Ends with a line of the log where something is away or said no; whatever else is a mistake, told with its frames.

    An object store that is away for an hour was 60 lines every few seconds, the reason in the last of them.
    """

    abstract = True
    throws = (LakehouseError, OperationalError, InterfaceError, BrokerAway)


app = Celery("evodb", task_cls=Told)
app.config_from_object(settings.CELERY)
app.autodiscover_tasks(["lakehouse", "lakehouse.subscriptions"])


@signals.worker_init.connect
def _save_memory(**_: object) -> None:
    allocation.return_what_is_freed()


@signals.worker_ready.connect
@signals.beat_init.connect
def _is_up(**_: object) -> None:
    announcement.make()


@signals.task_failure.connect
def _say(sender: Task, exception: BaseException, **_: object) -> None:
    said = unprepared.sentence(exception) if isinstance(exception, DatabaseError) else None
    if said or isinstance(exception, sender.throws):
        words = said or f"{type(exception).__name__}: {' '.join(str(exception).split())}"
        log.error("%s failed: %s", sender.name.rpartition(".")[2], words)
