"""What people see when the portal itself fails."""

import logging
import sys

from django.http import HttpRequest, HttpResponse
from django.template import loader
from django.views import defaults

from connections.errors import DatabaseUnavailable
from connections.outages import is_database_outage

logger = logging.getLogger(__name__)


def server_error(request: HttpRequest) -> HttpResponse:
    """Answer an unexpected exception: 503 if only the database is away, so that programs and proxies try again.

    Django calls this while it handles the exception, wherever that was raised. The API's middleware turns the answer
    into a problem. Nothing here may use the database.
    """
    if not is_database_outage(sys.exception()):
        return defaults.server_error(request)
    logger.error("The database cannot be used; a request is refused.")
    response = HttpResponse(loader.get_template("503.html").render(), status=DatabaseUnavailable.status)
    response["Retry-After"] = str(DatabaseUnavailable.retry_after)
    return response
