"""Django's settings, all derived from the one table in lakehouse.conf."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lakehouse import conf
from lakehouse.database_choice import SQLITE, database_of
from lakehouse.setting import listed


def _settings() -> conf.Settings:
    """Whoever started the process reads a sentence, under daphne, Celery and manage.py alike."""
    try:
        return conf.load(os.environ)
    except conf.SettingError as exc:
        sys.exit(f"EvoDB cannot start: {exc}")


EVODB = _settings()
BASE_DIR = Path(__file__).resolve().parent.parent


def _made(folder: Path, name: str) -> Path:
    """A folder of ours that the setting of this name says."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        sys.exit(f"EvoDB cannot start: {name} says {folder}, wanted a folder to write into: {exc.strerror}")
    return folder


def _secret_key() -> str:
    """The given secret, or one made on the first start and kept in data_dir."""
    if EVODB.secret_key:
        return EVODB.secret_key
    path = _made(EVODB.data_dir, "EVODB_DATA_DIR") / "secret-key"
    try:
        return _kept(path)
    except OSError as exc:
        wanted = f"wanted one that this user may read and write: {exc.filename or path}: {exc.strerror}"
        sys.exit(f"EvoDB cannot start: EVODB_DATA_DIR says {EVODB.data_dir}, {wanted}")


def _kept(path: Path) -> str:
    if not path.exists():
        draft = path.with_name(f"secret-key.{os.getpid()}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(50))
        with contextlib.suppress(FileExistsError):  # another process was first; its key counts
            path.hardlink_to(draft)
        draft.unlink()
    return path.read_text()


def _database() -> dict[str, Any]:
    database = database_of(EVODB.resolved_database_url, pooler=EVODB.database_pooler)
    if database["ENGINE"] == SQLITE:
        _made(Path(database["NAME"]).parent, "EVODB_DATABASE_URL" if EVODB.database_url else "EVODB_DATA_DIR")
        database["TEST"] = {"NAME": str(EVODB.data_dir.resolve() / "test.sqlite3")}
    return database


def _broker() -> dict[str, Any]:
    if EVODB.broker_url:
        # Without a bound each task that a silent Redis is told keeps a thread of whoever tells it, for ever.
        bounds = {"socket_connect_timeout": 5.0, "socket_timeout": 10.0}
        is_redis = EVODB.broker_url.startswith(("redis", "unix"))
        return {"broker_url": EVODB.broker_url, "broker_transport_options": bounds if is_redis else {}}
    folder = EVODB.data_dir.resolve() / "broker"
    for name in ("queue", "processed", "control"):
        _made(folder / name, "EVODB_DATA_DIR")
    return {
        "broker_url": "folder://localhost",
        "broker_transport_options": {
            "data_folder_in": str(folder / "queue"),
            "data_folder_out": str(folder / "queue"),
            "processed_folder": str(folder / "processed"),
            "control_folder": str(folder / "control"),
            "store_processed": False,
            "polling_interval": 0.1,
        },
    }


def _origins(hosts: list[str]) -> list[str]:
    """Where forms of these hosts come from when a proxy ends TLS, of which this process sees nothing."""
    exact = [host.removeprefix(".") for host in hosts if host != "*"]
    return [f"https://{host}" for host in exact] + [f"https://*{host}" for host in hosts if host.startswith(".")]


def _folder_of(package: str) -> Path:
    """Where it lies; it is not imported."""
    found = find_spec(package)
    assert found is not None, f"{package} is not installed: pip install evodb"
    return Path(str(found.origin)).parent


NINJA = _folder_of("ninja")
SECRET_KEY = _secret_key()
DEBUG = EVODB.debug
ALLOWED_HOSTS = listed(EVODB.allowed_hosts)
CSRF_TRUSTED_ORIGINS = _origins(ALLOWED_HOSTS)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = EVODB.cookies_secure
# HSTS and redirects are for the proxy that ends TLS.
SILENCED_SYSTEM_CHECKS = ["security.W004", "security.W008"]
# Not daphne's app: it loads Twisted into every worker, beat and command, 25 MiB and 0.5 s of CPU each. All it brings is
# the command `runserver`; that is lakehouse's here, which so stands before staticfiles, which has one too. Nor ninja's,
# of which only files are wanted, and what the admin shows is loaded with the URLs (evodb_site.urls): 14 MiB and 0.15 s.
INSTALLED_APPS = [
    "django.contrib.admin.apps.SimpleAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.messages",
    "django.contrib.sessions",
    "channels",
    "lakehouse",
    "lakehouse.subscriptions",
    "lakehouse.dashboard",
    "evodb_site.apps.SiteConfig",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "lakehouse.http.unstorable.Refusal",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates", NINJA / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
ROOT_URLCONF = "evodb_site.urls"
ASGI_APPLICATION = "evodb_site.asgi.application"
DATABASES = {"default": _database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CHANNEL_LAYERS = {
    "default": {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": [EVODB.redis_url]}}
    if EVODB.redis_url
    else {"BACKEND": "channels.layers.InMemoryChannelLayer"}
}
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "static/"
STATICFILES_DIRS = [NINJA / "static"]
WHITENOISE_USE_FINDERS = True

CELERY = {
    **_broker(),
    "task_ignore_result": True,
    "task_acks_late": True,
    # A task that dies is not lost either way: beat calls flush_due, and the journal remembers what waits.
    "task_reject_on_worker_lost": True,
    "worker_prefetch_multiplier": 1,
    "worker_hijack_root_logger": False,
    "broker_connection_retry_on_startup": True,
    "beat_schedule": {
        "flush-due": {"task": "lakehouse.tasks.flush_due", "schedule": 5.0},
        "recover-fallback": {"task": "lakehouse.tasks.recover_fallback", "schedule": 10.0},
        "refresh-current": {"task": "lakehouse.tasks.refresh_current", "schedule": 15.0},
        "export-events": {"task": "lakehouse.tasks.export_events", "schedule": 30.0},
        "upkeep": {"task": "lakehouse.tasks.upkeep", "schedule": 60.0},
        "forget-history": {"task": "lakehouse.tasks.forget_history", "schedule": 600.0},
        "forget-messages": {"task": "lakehouse.subscriptions.tasks.forget_messages", "schedule": 600.0},
        "free-payloads": {"task": "lakehouse.subscriptions.tasks.free_payloads", "schedule": 60.0},
        "forget-dead-letters": {"task": "lakehouse.tasks.forget_dead_letters", "schedule": 600.0},
    },
    # In memory: a file that two beats share, or that one was killed at, ends every beat after it.
    "beat_scheduler": "lakehouse.beat:Scheduler",
}
LOGGING_CONFIG = "lakehouse.log_redaction.configure"
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
    "filters": {
        "foreseen": {"()": "lakehouse.log_redaction.Foreseen"},
        "strangers": {"()": "lakehouse.log_redaction.Strangers"},
    },
    "loggers": {
        "lakehouse": {"level": "INFO"},
        "django.request": {"filters": ["foreseen"]},
        "django.security.DisallowedHost": {"filters": ["strangers"]},
    },
}
