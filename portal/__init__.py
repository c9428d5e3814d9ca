"""Project configuration: settings, Celery, URLs and the servers."""

from portal.celery import app as celery_app

__all__ = ["celery_app"]
