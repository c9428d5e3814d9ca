"""Pages about incidents: what each person sees, and the button that starts the repair."""

from datetime import timedelta
from typing import Any

from django.test import Client
from django.utils import timezone

from connections.microsoft.classifier import classify
from connections.models import Connection, Incident, Share, User
from connections.services.api_keys import api_keys
from connections.services.incidents import incidents
from connections.services.tokens import apply_results
from tests import factories
from tests.views.pages import assert_shows, text

NOW = timezone.now()


def verdict(code: int, error: str = "invalid_grant") -> object:
    body = f'{{"error":"{error}","error_description":"AADSTS{code}: no","error_codes":[{code}]}}'
    return classify(where="token", status=400, headers={}, body=body)


def revoked(count: int = 3, **overrides: object) -> Incident:
    for number in range(count):
        connection = factories.make_connection(name=f"Inbox {number}", **overrides)
        apply_results.flag(connection.pk, verdict(50173), now=NOW, version=connection.token_version)  # type: ignore[arg-type]
    return Incident.objects.get()


def test_the_owner_sees_the_cause_and_a_button_that_mends_it(member: Client) -> None:
    incident = revoked()
    page = text(member.get(f"/incidents/{incident.pk}/"))
    assert_shows(
        page, "ada@contoso.example needs to sign in again", "AADSTS50173", "Sign in again as ada@contoso.example"
    )
    assert page.count("/sign-in/") >= 3, "each connection has its own button"
    assert "Bob Member" in page


def test_an_admin_sees_it_first_on_the_start_page_and_who_must_act(admin: Client) -> None:
    revoked()
    page = text(admin.get("/"))
    assert_shows(page, "Waiting on others", "3 affected connections", "Bob Member")
    assert "Sign in again as" not in page, "an admin cannot sign in for the owner"


def test_strangers_see_nothing_of_it(stranger: Client) -> None:
    incident = revoked()
    assert stranger.get(f"/incidents/{incident.pk}/").status_code == 404
    assert "must sign in" not in stranger.get("/incidents/").content.decode()


def test_members_see_only_their_connections_of_an_incident(member: Client, dave: User, admin: Client) -> None:
    own = factories.make_connection(name="Bob's inbox")
    theirs = factories.make_connection(name="Dave's inbox", owner=dave)
    incidents.app_rejected(own.app_registration, verdict(7000222, "invalid_client"), now=NOW)  # type: ignore[arg-type]
    incident = Incident.objects.get()
    page = text(member.get(f"/incidents/{incident.pk}/"))
    assert own.name in page
    assert theirs.name not in page
    assert "Add credential" not in page
    whole = text(admin.get(f"/incidents/{incident.pk}/"))
    assert "Add credential" in whole
    assert theirs.name in whole


def test_the_impact_names_sharers_and_keys_that_fetched(bob: User, dave: User, admin: Client) -> None:
    incident = revoked(1)
    connection = Connection.objects.get()
    Share.objects.create(connection=connection, person=dave, created_by=bob)
    key, _ = api_keys.issue(
        bob, name="Night robot", scopes=["token:read"], expires_at=NOW + timedelta(days=30), actor=bob, now=NOW
    )
    api_keys.record_token_request(key, connection, address=None, now=NOW)
    page = text(admin.get(f"/incidents/{incident.pk}/"))
    assert_shows(page, "Dave Stranger", "Night robot (Bob Member)")


def test_the_picture_leads_from_the_cause_to_people_and_keys(bob: User, dave: User, admin: Client) -> None:
    connection = factories.make_connection(name="Inbox")
    Share.objects.create(connection=connection, person=dave)
    incidents.app_rejected(connection.app_registration, verdict(7000222, "invalid_client"), now=NOW)  # type: ignore[arg-type]
    page = text(admin.get(f"/incidents/{Incident.objects.get().pk}/"))
    picture = page.partition('<ol class="impact">')[2].partition("</ol>")[0]
    steps = [
        "App registration rejected",
        "Contoso Connections",
        "Connections",
        "Bob Member",
        "Dave Stranger",
        "API keys",
    ]
    assert sorted(steps, key=picture.index) == steps


def test_its_course_names_only_connections_that_the_reader_sees(member: Client, dave: User, admin: Client) -> None:
    own = factories.make_connection(name="Bob's inbox")
    factories.make_connection(name="Dave's inbox", owner=dave)
    incidents.app_rejected(own.app_registration, verdict(7000222, "invalid_client"), now=NOW)  # type: ignore[arg-type]
    incidents.app_accepted(own.app_registration, now=NOW + timedelta(hours=2))
    path = f"/incidents/{Incident.objects.get().pk}/"
    labels = [moment.label for moment in admin.get(path).context["timeline"].moments]
    assert labels[0] == "Incident opened"
    assert labels[-1] == "Incident resolved"
    assert {"Bob's inbox affected", "Dave's inbox resolved"} <= set(labels)
    assert not any("Dave" in moment.label for moment in member.get(path).context["timeline"].moments)


def test_a_healed_incident_keeps_its_story(bob: User, admin: Client) -> None:
    incident = revoked(1)
    incidents.connections_recovered([Connection.objects.get().pk], now=NOW + timedelta(hours=3))
    page = text(admin.get(f"/incidents/{incident.pk}/"))
    assert_shows(page, "Resolved", "after 3 hours", "opened the incident", "resolved the incident")
    assert "No results found" in text(admin.get("/incidents/?state=open"))


def test_the_list_is_found_by_connection_in_few_queries(admin: Client, max_queries: Any) -> None:
    assert "No incidents yet" in text(admin.get("/incidents/"))
    for number in range(12):
        connection = factories.make_connection(
            name=f"Box {number}", account_oid=f"00000000-0000-4000-8000-{number:012}"
        )
        apply_results.flag(connection.pk, verdict(50173), now=NOW, version=1)  # type: ignore[arg-type]
    with max_queries(10):
        page = text(admin.get("/incidents/"))
    assert page.count("needs to sign in again") == 12
    assert admin.get("/incidents/?q=Box+7").content.decode().count("needs to sign in again") == 1
