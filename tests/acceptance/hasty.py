"""The site's Celery application with a beat that asks ten times as often: `celery -A tests.acceptance.hasty beat`."""

from evodb_site.celery import app

for entry in app.conf.beat_schedule.values():
    entry["schedule"] /= 10
