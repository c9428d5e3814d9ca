"""A reference from its creation on the page to a repointed automation, in the sandbox."""

from typing import Any
from urllib.parse import quote

import pytest

from connections.models import AuditEvent, Connection, ConnectionReference, Share, TokenFetch, User
from portal.sandbox.client import Control
from tests import factories
from tests.asgi_client import PortalClient
from tests.flows.conftest import Meet
from tests.views.pages import assert_hides, assert_shows, text

GRACE = "grace@contoso.example"


@pytest.fixture
def two(sandbox: Control, bob: User, dave: User) -> tuple[Connection, Connection]:
    """Bob's connections of two accounts. The first is shared with dave."""
    first = factories.make_granted_connection(sandbox, owner=bob, name="Old mailbox")
    second = factories.make_granted_connection(sandbox, owner=bob, name="New mailbox")
    Share.objects.create(connection=first, person=dave, created_by=bob)
    return first, second


def token(owner: User, ref: str) -> Any:
    _, key = factories.make_key(owner, name=f"Robot {TokenFetch.objects.count()}")
    client = PortalClient(headers={"Authorization": f"Bearer {key}"})
    return client.get(f"/api/v1/connections/{quote(ref)}/token")


def test_an_automation_follows_its_reference_to_another_connection(
    two: tuple[Connection, Connection], person: Meet, bob: User, dave: User
) -> None:
    first, second = two
    member = person(bob)
    assert_shows(text(member.get(f"/connections/{first.pk}/")), "No references point at this connection.")
    form = text(member.get(f"/references/add/?connection={first.pk}"))
    assert f'value="{first.pk}"' in form
    answer = member.post("/references/add/", name="invoices-inbox", connection=str(first.pk), description="Invoices")
    reference = ConnectionReference.objects.get()
    assert answer["Location"] == f"/references/{reference.pk}/"
    assert "invoices-inbox" in text(member.get(f"/connections/{first.pk}/"))
    assert token(bob, "invoices-inbox").status_code == 200
    assert token(dave, "invoices-inbox").status_code == 200

    page = text(member.get(f"/references/{reference.pk}/"))
    assert_shows(page, "Old mailbox", "API keys that use it", "Robot 0", "Robot 1")
    review = text(member.get(f"/references/{reference.pk}/point/?connection={second.pk}"))
    assert_shows(review, "New mailbox", "1 API key will get no tokens", "No access to the new connection")
    assert ConnectionReference.objects.get().connection == first, "reviewing changes nothing"
    response = member.post(f"/references/{reference.pk}/point/", connection=str(second.pk), seen=str(first.pk))
    assert response.status_code == 302
    assert token(bob, "invoices-inbox").status_code == 200
    assert token(dave, "invoices-inbox").status_code == 404
    assert TokenFetch.objects.filter(reference="invoices-inbox", connection=second).count() == 1
    page = text(member.get(f"/references/{reference.pk}/"))
    assert_shows(page, "New mailbox", "Old mailbox")
    assert AuditEvent.objects.filter(action="reference.pointed").count() == 1

    stale = member.post(f"/references/{reference.pk}/point/", connection=str(first.pk), seen=str(first.pk))
    assert (stale.status_code, "just pointed this reference elsewhere" in text(stale)) == (422, True)


def test_a_person_sets_a_default_and_their_own_key_finds_it(
    two: tuple[Connection, Connection], person: Meet, bob: User, dave: User
) -> None:
    first, second = two
    member = person(bob)
    assert "Not your default for Outlook" in text(member.get(f"/connections/{first.pk}/"))
    member.post(f"/connections/{first.pk}/default/", connector="outlook")
    assert_shows(text(member.get(f"/connections/{first.pk}/")), "Your default for Outlook", "default:outlook")
    assert token(bob, "default:outlook").status_code == 200
    assert token(dave, "default:outlook").status_code == 404
    member.post(f"/connections/{second.pk}/default/", connector="outlook")
    assert "Not your default for Outlook" in text(member.get(f"/connections/{first.pk}/"))
    member.post(f"/connections/{second.pk}/default/", connector="outlook", remove="1")
    assert token(bob, "default:outlook").status_code == 404


def test_a_person_without_the_connection_does_not_learn_its_name(
    two: tuple[Connection, Connection], person: Meet, bob: User, dave: User, alice: User
) -> None:
    first, second = two
    person(dave).post("/references/add/", name="mine", connection=str(first.pk))
    reference = ConnectionReference.objects.get()
    person(alice).post(f"/references/{reference.pk}/point/", connection=str(second.pk))
    for path in ("/references/", f"/references/{reference.pk}/"):
        page = text(person(dave).get(path))
        assert_hides(page.partition("History")[0], "New mailbox")
    assert_shows(text(person(dave).get("/references/")), "Not shared with you")
