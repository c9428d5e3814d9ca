"""Middleware of the sandbox."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

GetResponse = Callable[[HttpRequest], HttpResponse]


def only_known_hosts(get_response: GetResponse) -> GetResponse:
    """Refuse other host names: a web page that points its own name at 127.0.0.1 must not reach the control API."""

    def middleware(request: HttpRequest) -> HttpResponse:
        request.get_host()  # raises DisallowedHost, which Django answers with 400
        return get_response(request)

    return middleware
