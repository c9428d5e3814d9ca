from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

GetResponse = Callable[[HttpRequest], HttpResponse]


def only_known_hosts(get_response: GetResponse) -> GetResponse:
    """Reject other host names: a web page that points its own name at 127.0.0.1 must not reach the control API."""

    def middleware(request: HttpRequest) -> HttpResponse:
        request.get_host()  # raises DisallowedHost, which Django turns into a 400
        return get_response(request)

    return middleware
