"""What anybody can make the portal do without signing in: queries and stored rows of every anonymous route.

Each route that answers somebody without a session or key with something other than the sign-in page is listed here. A
new one fails until its cost is written down. Rows are bounded: sign-ins by services/people/sign_in_limits.py (and pruned
every minute), everything else stores none.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.apps import apps
from django.db import connection as database
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from social_django.models import Nonce

from connections.errors import RateLimited
from connections.models import ApiKey, Session, SignInLimit, StoredReply, User
from connections.services.api_keys import idempotency
from connections.services.people import sessions, sign_in_limits
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories, full_dataset, permissions_table
from tests.asgi_client import PortalClient

pytestmark = pytest.mark.django_db

# Route: at most so many queries, and so many rows stored.
COST = """
GET  sign_in                                   0  0
POST sign_in                                  20  5
GET  second_factor                             0  0
POST second_factor                             0  0
GET  consent_callback                          1  0
POST consent_callback                          0  0
GET  sign_in_link                              1  0
POST sign_in_link                              1  0
GET  sign_in_link_done                         0  0
POST sign_in_link_done                         0  0
GET  api:openapi-json                          0  0
POST api:openapi-json                          0  0
GET  api:reference                             0  0
POST api:reference                             0  0
GET  api:api-root                              0  0
POST api:api-root                              0  0
GET  microsoft_errors                          0  0
POST microsoft_errors                          0  0
GET  openid_configuration                      0  0
POST openid_configuration                      0  0
GET  jwks                                      1  0
POST jwks                                      0  0
GET  healthz                                   0  0
POST healthz                                   0  0
GET  readyz                                    8  0
POST readyz                                    0  0
GET  metrics                                   17  0
POST metrics                                   0  0
GET  social:begin/microsoft                    0  0
POST social:begin/microsoft                   10  4
GET  social:begin/microsoft-connect            0  0
POST social:begin/microsoft-connect            4  0
POST social:begin/no-such-backend              4  0
GET  social:complete/microsoft                 0  0
POST social:complete/microsoft                 0  0
GET  social:complete/microsoft-connect         0  0
POST social:complete/microsoft-connect         0  0
""".strip()


@pytest.fixture
def contoso(alice: User, bob: User, carol: User, dave: User, sandbox: Control, settings: Any) -> full_dataset.World:
    settings.LOGIN_MICROSOFT = {
        "environment": "sandbox",
        "tenant": seed.CONTOSO,
        "client_id": seed.SIGN_IN_APP,
        "client_secret": seed.SIGN_IN_SECRET,
        "admins": ["ITAdmin"],
        "auditors": ["Auditor"],
    }
    people = {"alice": alice, "bob": bob, "carol": carol, "dave": dave}
    return full_dataset.relate(full_dataset.make(people))


def stored() -> int:
    return sum(model._default_manager.count() for model in apps.get_models(include_auto_created=True))


def anonymous_rows() -> Iterator[permissions_table.Row]:
    for row in permissions_table.rows():
        if row.of("nobody") != "in":
            yield row


def cost_of(row: permissions_table.Row, contoso: full_dataset.World) -> tuple[int, int]:
    path = contoso.url(row.name, row.route.partition("/")[2])
    before = stored()
    with CaptureQueriesContext(
        database,
    ) as captured:
        client = Client()
        form = {"username": "bob", "password": "wrong"} if row.name == "sign_in" else {"passkey": "{}"}
        client.get(path) if row.method == "GET" else client.post(path, form)
    statements = [query for query in captured if not query["sql"].startswith(("SAVEPOINT", "RELEASE", "ROLLBACK"))]
    return len(statements), stored() - before


def test_every_anonymous_route_costs_no_more_than_listed(contoso: full_dataset.World) -> None:
    listed = {}
    for line in COST.splitlines():
        method, route, queries, rows = line.split()
        listed[method, route] = (int(queries), int(rows))
    measured = {(row.method, row.route): cost_of(row, contoso) for row in anonymous_rows()}
    assert measured.keys() == listed.keys()
    for page, cost in measured.items():
        assert cost[0] <= listed[page][0], page
        assert cost[1] <= listed[page][1], page


def test_no_api_route_stores_anything_without_a_key(contoso: full_dataset.World) -> None:
    before = stored()
    client = PortalClient(headers={"Authorization": "Bearer m365p_made-up"})
    for row in permissions_table.api_rows():
        path = contoso.url(row.name)
        with CaptureQueriesContext(database) as captured:
            answer = (
                getattr(client, row.method.lower())(path, {}, content_type="application/json")
                if (row.method != "GET")
                else client.get(path)
            )
        assert answer.status_code == 401, row
        assert len(captured) <= 1, row
    assert stored() == before


def test_a_second_request_of_the_same_kind_stores_no_more(contoso: full_dataset.World) -> None:
    """Failed sign-ins and begun ones are counted in rows that exist already."""
    for path, form in (("/sign-in/", {"username": "bob", "password": "wrong"}),):
        Client().post(path, form)
        before = stored()
        Client().post(path, form)
        assert stored() == before, path


def test_what_anonymous_sign_ins_store_is_gone_after_an_hour(contoso: full_dataset.World) -> None:
    for _ in range(3):
        Client().post("/auth/login/microsoft/")
    assert (Session.objects.count(), Nonce.objects.count()) == (3, 3)
    later = timezone.now() + timedelta(minutes=61)
    sessions.prune(now=later)
    sign_in_limits.close_windows(now=later)
    assert not Session.objects.exists()
    assert not SignInLimit.objects.exists()
    assert not Nonce.objects.exists()


def test_stored_replies_are_bounded_for_each_key(bob: User, dave: User, monkeypatch: Any) -> None:
    monkeypatch.setattr(idempotency, "MOST_PER_KEY", 3)
    key, _ = factories.make_key(bob)
    other, _ = factories.make_key(dave)
    now = timezone.now()

    def claim(key: ApiKey, number: int, *, later: timedelta = timedelta(0)) -> Any:
        return idempotency.claim(key, idempotency_key=f"n{number}", request=b"x", now=now + later)

    for number in range(3):
        idempotency.store_reply(claim(key, number), idempotency.Reply(201, "{}", {}, ""))
    with pytest.raises(RateLimited):
        claim(key, 3)
    assert isinstance(claim(key, 0), idempotency.Reply), "a repeat still gets its reply"
    assert isinstance(claim(other, 3), StoredReply)
    assert isinstance(claim(key, 3, later=timedelta(hours=25)), StoredReply), "after a day there is room again"


def test_pruning_keeps_up_with_more_than_one_batch(bob: User, monkeypatch: Any) -> None:
    monkeypatch.setattr(idempotency, "PRUNE_BATCH", 2)
    key, _ = factories.make_key(bob)
    now = timezone.now()
    for number in range(5):
        idempotency.claim(key, idempotency_key=f"n{number}", request=b"x", now=now)
    assert idempotency.prune(now=now + timedelta(hours=25)) == 5
