"""How the portal runs: settings, Celery, URLs and the servers around it."""

from portal.celery import app as celery_app

__all__ = ["celery_app"]
