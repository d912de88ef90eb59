"""Services that tests ask for by name. The settings of a run come from tests.environment."""

from tests.services import lake_settings, moto_store, postgres_url, rclone_store, redis_url

__all__ = ["lake_settings", "moto_store", "postgres_url", "rclone_store", "redis_url"]
