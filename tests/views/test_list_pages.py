"""Keyset pagination, counts that stop at a limit, and filters that ignore unknown values."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.db.models import QuerySet
from django.http import HttpRequest
from django.test import RequestFactory
from django.utils import timezone

from connections import keyset
from connections.models import AuditEvent, Tenant
from connections.views import list_pages
from tests import factories


def get(url: str = "") -> HttpRequest:
    return RequestFactory().get(f"/tenants/{url}")


@pytest.fixture
def tenants() -> Any:
    names = ["Ångström", "alpha", "Beta", "beta", "gamma", "δέλτα", "zeta"]
    return [
        factories.make_tenant(name=name, directory_id=f"d{number}.example", tid="") for number, name in enumerate(names)
    ]


def walk(queryset: QuerySet[Any], order: Sequence[str], size: int, link: str = "next_url") -> Any:
    """Follow the links and return all pages."""
    page = list_pages.page(get(), queryset, order=order, size=size)
    pages = [page]
    while getattr(page, link):
        page = list_pages.page(get(getattr(page, link)), queryset, order=order, size=size)
        pages.append(page)
        assert len(pages) < 20
    return pages


@pytest.mark.parametrize("order", [("name", "pk"), ("-name", "pk"), ("-pk",), ("environment", "-pk")])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_it_shows_every_row_once_and_in_order(tenants: list[Tenant], order: Sequence[str], size: int) -> None:
    pages = walk(Tenant.objects.all(), order, size)
    seen = [tenant.pk for page in pages for tenant in page.items]
    assert seen == list(Tenant.objects.order_by(*order).values_list("pk", flat=True))


def test_previous_pages_are_the_same_as_next_pages(tenants: list[Tenant]) -> None:
    order, size = ("name", "pk"), 2
    forward = walk(Tenant.objects.all(), order, size)
    page, backward = forward[-1], [forward[-1]]
    while page.previous_url:
        page = list_pages.page(get(page.previous_url), Tenant.objects.all(), order=order, size=size)
        backward.append(page)
    assert [p.items for p in reversed(backward)] == [p.items for p in forward]
    assert not backward[-1].previous_url


def test_added_and_removed_rows_do_not_shift_pages(tenants: list[Tenant]) -> None:
    order, size = ("name", "pk"), 3
    first = list_pages.page(get(), Tenant.objects.all(), order=order, size=size)
    first.items[0].delete()
    factories.make_tenant(name="0 first of all", directory_id="new.example", tid="")
    second = list_pages.page(get(first.next_url), Tenant.objects.all(), order=order, size=size)
    expected = Tenant.objects.filter(name__gt=first.items[-1].name).order_by("name", "pk")[:size]
    assert second.items == list(expected)


def test_times_survive_a_round_trip_through_the_link() -> None:
    now = timezone.now()
    for minutes in range(5):
        AuditEvent.objects.create(
            at=now - timedelta(minutes=minutes, microseconds=7), action="a.b", actor_name="x", target_type="T",
            target_name="t",
        )  # fmt: skip
    pages = walk(AuditEvent.objects.all(), ("-at", "-pk"), 2)
    seen = [event.pk for page in pages for event in page.items]
    assert seen == list(AuditEvent.objects.order_by("-at", "-pk").values_list("pk", flat=True))


@pytest.mark.parametrize(
    "key",
    [
        "x",
        "é",
        "!!!",
        "bnVsbA",
        "W10",
        "WyJhIl0",
        "WyJhIiwieCJd",
        "WyJhIixudWxsXQ",
        "W1tdLFtdXQ",
        "WyJcdTAwMDAiLCIxIl0",
    ],
)
def test_an_invalid_link_gives_the_first_page(tenants: list[Tenant], key: str) -> None:
    page = list_pages.page(get(f"?after={key}"), Tenant.objects.all(), size=3)
    assert page.items == list_pages.page(get(), Tenant.objects.all(), size=3).items


def test_a_link_past_the_end_gives_the_first_page(tenants: list[Tenant]) -> None:
    last = walk(Tenant.objects.all(), ("name", "pk"), 3)[-1]
    link = list_pages.page_url(get(), "after", keyset.encode(last.items[-1], ("name", "pk")))
    first = list_pages.page(get(), Tenant.objects.all(), size=3)
    assert list_pages.page(get(link), Tenant.objects.all(), size=3).items == first.items


def test_links_keep_the_filters(tenants: list[Tenant]) -> None:
    page = list_pages.page(get("?q=a&status=active"), Tenant.objects.all(), size=3)
    query = parse_qs(urlsplit(page.next_url).query)
    assert (query["q"], query["status"]) == (["a"], ["active"])


def test_counting_stops_at_the_limit(tenants: list[Tenant], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_pages, "COUNT_LIMIT", 5)
    page = list_pages.page(get(), Tenant.objects.all(), size=3)
    assert (page.total, page.summary) == ("5+", "3 of 5+")


def test_one_page_needs_one_query_and_several_need_two(tenants: list[Tenant], django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(1):
        assert list_pages.page(get(), Tenant.objects.all()).summary == "7 entries"
    with django_assert_num_queries(2):
        assert list_pages.page(get(), Tenant.objects.all(), size=3).summary == "3 of 7"


def test_search_covers_every_column_and_ignores_case(tenants: list[Tenant]) -> None:
    filters = list_pages.Filters(get("?q=%20BETA%20"), search=("name", "directory_id"))
    assert filters.active
    assert {tenant.name for tenant in filters.apply(Tenant.objects.all())} == {"Beta", "beta"}
    by_directory = list_pages.Filters(get("?q=d4.EXAMPLE"), search=("name", "directory_id"))
    assert [tenant.name for tenant in by_directory.apply(Tenant.objects.all())] == ["gamma"]


@pytest.mark.parametrize("query", ["%00", "%25", "_", "'", "x" * 5000])
def test_search_takes_everything_literally(tenants: list[Tenant], query: Any) -> None:
    filters = list_pages.Filters(get(f"?q={query}"), search=("name",))
    assert len(list(filters.apply(Tenant.objects.all()))) == (0 if filters.active else len(tenants))


def test_an_unknown_filter_value_is_ignored(tenants: list[Tenant]) -> None:
    choice = list_pages.Choice("environment", "Environment", [("global", "Global")], list_pages.by("environment"))
    assert not list_pages.Filters(get("?environment=mars"), choices=[choice]).active
    narrowed = list_pages.Filters(get("?environment=global"), choices=[choice])
    assert narrowed.active
    assert not narrowed.apply(Tenant.objects.all()).exists()
    assert narrowed.clear_url == "/tenants/"
