"""The response when the portal itself fails."""

import logging
import sys

from django.http import HttpRequest, HttpResponse
from django.template import loader
from django.views import defaults

from connections.errors import DatabaseUnavailable
from connections.outages import is_database_outage

logger = logging.getLogger(__name__)


def server_error(request: HttpRequest) -> HttpResponse:
    """Respond to an unexpected exception. A database outage is a 503, so that clients and proxies try again.

    Django calls this while it handles the exception, no matter where it was raised. The API's middleware turns the
    response into a problem. This function must not use the database.
    """
    if not is_database_outage(sys.exception()):
        return defaults.server_error(request)
    logger.error("The database cannot be used; a request is refused.")
    response = HttpResponse(loader.get_template("503.html").render(), status=DatabaseUnavailable.status)
    response["Retry-After"] = str(DatabaseUnavailable.retry_after)
    return response
