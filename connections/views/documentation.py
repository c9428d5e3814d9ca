"""The documentation, for everybody who has signed in."""

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from connections import documentation, documentation_search


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    return render(request, "documentation/index.html", {"contents": documentation.contents()})


@require_safe
def show(request: HttpRequest, page: str) -> HttpResponse:
    found = documentation.page(page)
    if found is None:
        raise Http404
    return render(request, "documentation/page.html", {"page": found, "contents": documentation.contents()})


@require_safe
def picture(request: HttpRequest, name: str) -> HttpResponse:
    file = documentation.picture(name)
    if file is None:
        raise Http404
    return HttpResponse(file.read_bytes(), content_type="image/png")


@require_safe
def search(request: HttpRequest) -> HttpResponse:
    query = request.GET.get("q", "").strip()[: documentation_search.LONGEST_QUERY]
    context = {"query": query, "results": documentation_search.search(query)}
    return render(request, "documentation/search.html", context)
