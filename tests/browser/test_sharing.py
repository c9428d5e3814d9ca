"""Sharing in the browser: shared with a warning, used, removed, and reviewed by an auditor."""

import csv
import http.client
from datetime import timedelta
from urllib.parse import urlsplit

from django.utils import timezone

from connections.models import AuditEvent, Connection, Share, User
from connections.services.api_keys import api_keys
from connections.services.connections import connections
from connections.services.people import accounts
from connections.services.sharing import shares, teams
from tests import factories
from tests.browser.browser_users import Come, Portal, Start


def token_status(here: Portal, key: str, connection: Connection) -> int:
    client = http.client.HTTPConnection(urlsplit(here.url).netloc, timeout=30)
    path = f"/api/v1/connections/{connection.pk}/token"
    client.request("GET", path, headers={"Authorization": f"Bearer {key}"})
    answer = client.getresponse()
    answer.read()
    client.close()
    return answer.status


def test_a_connection_is_shared_with_a_warning_used_and_unshared(portal: Start, visitor: Come, bob: User) -> None:
    una, now = factories.make_person("una", first_name="Una", last_name="User"), timezone.now()
    connection = factories.make_connection(
        owner=bob,
        granted_scopes="Mail.Read Contacts.ReadWrite openid profile email",
        expires_at=now + timedelta(hours=1),
    )
    _, key = api_keys.issue(
        una, name="Robot", scopes=["token:read"], expires_at=now + timedelta(days=1), actor=una, now=now
    )
    here = portal()
    assert token_status(here, key, connection) == 404

    owner = visitor(here, "bob")
    owner.open(f"/connections/{connection.pk}/")
    owner.follow("Share")
    owner.sees("People with access act as Ada Lovelace", "Contacts: read and change")
    owner.sees("wherever the granted permissions apply", "Read mail")
    owner.page.get_by_label("Share with").press_sequentially("user")
    owner.page.get_by_role("option", name="Una User (una)").wait_for()
    owner.page.keyboard.press("ArrowDown")
    owner.page.keyboard.press("Enter")
    owner.press("Share")
    assert not Share.objects.exists()  # the browser itself requires the tick
    owner.tick("I understand what I'm sharing")
    owner.press("Share")
    owner.sees("Invoices is shared with Una User.")

    colleague = visitor(here, "una")
    colleague.open(f"/connections/{connection.pk}/")
    colleague.sees("Invoices", "Shared with")
    assert token_status(here, key, connection) == 200

    owner.press("Remove access for Una User")
    owner.sees("Una User can no longer use Invoices.", "Not shared")
    assert token_status(here, key, connection) == 404
    assert colleague.open(f"/connections/{connection.pk}/") == 404
    colleague.open("/connections/")
    assert not colleague.page.get_by_text("Invoices").count()
    actions = AuditEvent.objects.filter(target_type="Connection").order_by("pk").values_list("action", flat=True)
    assert list(actions) == ["connection.shared", "connection.unshared"]


def test_an_auditor_reports_and_exports_who_could_use_a_deleted_connection(
    portal: Start, visitor: Come, alice: User, bob: User, carol: User, dave: User
) -> None:
    noon = (timezone.now() - timedelta(days=3)).replace(hour=12, minute=0, second=0, microsecond=0)
    hour, day = timedelta(hours=1), noon.date().isoformat()
    app = factories.make_app_registration()
    connection = connections.start_delegated(app, name="Invoices", chosen=[], actor=bob, now=noon - 24 * hour)
    team = teams.add("Finance", actor=alice)
    teams.add_member(team, dave, actor=alice, now=noon)
    shares.share(connection, team=team, level="use", until=noon + 2 * hour, actor=bob, now=noon + hour)
    shares.end_expired(now=noon + 5 * hour)
    teams.remove(team, actor=alice, now=noon + 6 * hour)
    connections.remove(connection, actor=bob, now=noon + 7 * hour)
    accounts.remove(dave, actor=alice, now=noon + 8 * hour)

    auditor = visitor(portal(), "carol")
    auditor.follow("Audit trail")
    auditor.follow("Reports")
    auditor.follow("Access history by connection", exact=False)
    auditor.sees("Search for a connection or person")
    auditor.type_in("Connection name", "zebra")
    auditor.press("Find connection")
    auditor.sees("No results found")
    auditor.type_in("Connection name", "voice")
    auditor.page.locator("#connection-date").fill(day)
    auditor.press("Find connection")
    auditor.sees("Access to Invoices (deleted)", f"on {day}, 00:00 to 24:00 UTC")
    auditor.sees("00:00:00 – 19:00:00", "Dave Stranger", "Shared with team Finance", "13:00:00 – 14:00:00")
    auditor.sees("IT admins can view and manage all connections")
    with auditor.page.expect_download() as download:
        auditor.press("Export as CSV")
    assert download.value.suggested_filename.endswith(f"-{day}.csv")
    rows = list(csv.DictReader(download.value.path().read_text().splitlines()))
    assert [(row["person"], row["through"], row["from_utc"]) for row in rows] == [
        ("Bob Member <bob>", "Owner", f"{day} 00:00:00"),
        ("Dave Stranger <dave>", "Shared with a team", f"{day} 13:00:00"),
    ]
    assert AuditEvent.objects.get(action="audit.exported").actor == carol

    # Enter the exact end of the share, and continue from there to the other report.
    auditor.page.locator("#again-time").fill("14:00:00")
    auditor.press("Change time")
    auditor.sees(f"at {day} 14:00:00 UTC", "Bob Member")
    assert not auditor.page.get_by_text("Dave Stranger").count()
    auditor.follow("Bob Member")
    auditor.sees("Access of Bob Member", "Owner", "(deleted)")
    shared = auditor.page.url
    assert "time=14%3A00%3A00" in shared

    member = visitor(auditor.portal, "bob", viewport={"width": 390, "height": 844})
    assert member.open(shared.removeprefix(auditor.portal.url)) == 403
