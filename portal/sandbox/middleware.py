from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

GetResponse = Callable[[HttpRequest], HttpResponse]


def only_known_hosts(get_response: GetResponse) -> GetResponse:
    """Reject unknown host names. A web page whose own name resolves to 127.0.0.1 must not reach the control API."""

    def middleware(request: HttpRequest) -> HttpResponse:
        request.get_host()  # raises DisallowedHost, which Django turns into a 400
        return get_response(request)

    return middleware
