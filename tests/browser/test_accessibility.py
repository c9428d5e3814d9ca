"""WCAG 2.2 AA as axe-core checks it, in the light and in the dark, and the main tasks with the keyboard alone."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from connections.models import BulkAction, Connection, Incident, Share, User
from tests import factories
from tests.browser import organisation
from tests.browser.browser_users import Come, Portal, Start, Visitor
from tests.browser.keyboard import stops, tab_to

AXE = (Path(__file__).parent / "vendor/axe-core/axe.min.js").read_text()
CHECK = """async () => {
  const values = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"];
  const { violations, passes } = await axe.run({ runOnly: { type: "tag", values } });
  const found = violations.flatMap((rule) => rule.nodes.map((node) => `${rule.id}: ${node.html.slice(0, 120)}`));
  return [passes.length, found];
}"""
OF_ADMIN = (
    "/", "/connections/?status=reconnect_needed", "/connections/?q=nothing-has-this-name", "/connections/bulk/", "/incidents/", "/expiries/",
    "/access/", "/people/", "/apps/", "/mailboxes/", "/policy/", "/policy/violations/", "/approvals/", "/reviews/", "/audit/", "/audit/seals/",
    "/audit/access/", "/alerts/", "/api-keys/add/", "/connect/", "/account/", "/docs/", "/docs/operating/", "/api/v1/docs", "/search/?q=in", "/nothing/",
)  # fmt: skip
OF_MEMBER = ("/", "/connections/", "/connect/outlook/", "/policy/", "/requests/", "/account/alerts/", "/people/")


@pytest.fixture
def full(portal: Start, alice: User, bob: User) -> Portal:
    """A portal after a year of use."""
    organisation.make(alice, bob)
    return portal()


def violations(page: Page) -> list[str]:
    """Return what axe-core objects to on this page."""
    page.evaluate(AXE)
    passed, found = page.evaluate(CHECK)
    assert passed > 5, "axe-core has checked the page"
    return list(found)


def objections(visitor: Visitor, *paths: str) -> str:
    """Return what axe-core objects to on these pages, a line each."""
    found: list[str] = []
    for path in paths:
        visitor.open(path)
        found += [f"{path}: {violation}" for violation in violations(visitor.page)]
    return "\n".join(found)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_meet_wcag_2_2_aa(full: Portal, visitor: Come, scheme: str) -> None:
    broken = Connection.objects.filter(owner__username="bob", status="reconnect_needed").first()
    incident = Incident.objects.first()
    assert broken
    assert incident
    nobody = visitor(full, color_scheme=scheme, reduced_motion="reduce")
    assert objections(nobody, "/sign-in/") == ""
    admin = visitor(full, "alice", color_scheme=scheme, reduced_motion="reduce")
    assert objections(admin, *OF_ADMIN, f"/incidents/{incident.pk}/", f"/people/{broken.owner_id}/") == ""
    member = visitor(full, "bob", color_scheme=scheme, reduced_motion="reduce")
    detail = f"/connections/{broken.pk}/"
    assert objections(member, *OF_MEMBER, detail, f"{detail}shares/add/", f"{detail}remove/") == ""


def test_an_empty_portal_meets_wcag_2_2_aa(portal: Start, visitor: Come, alice: User) -> None:
    here = visitor(portal(), "alice", reduced_motion="reduce")
    assert objections(here, "/", "/connections/", "/incidents/", "/expiries/", "/access/", "/audit/", "/reviews/") == ""


def test_the_check_finds_what_is_wrong(portal: Start, visitor: Come, bob: User) -> None:
    here = visitor(portal(), "bob")
    here.page.evaluate("document.querySelector('h1').style.color = '#ddd'")
    assert any(found.startswith("color-contrast") for found in violations(here.page))


@pytest.mark.parametrize("width", [1280, 390])
def test_tab_begins_with_the_skip_link_and_stops_at_nothing_invisible(full: Portal, visitor: Come, width: int) -> None:
    admin = visitor(full, "alice", viewport={"width": width, "height": 844})
    for path in ("/", "/connections/?status=reconnect_needed", "/access/", "/policy/", "/account/"):
        admin.open(path)
        names, unseen = stops(admin)
        assert names[0] == "Skip to content", path
        assert unseen == [], path


def test_a_connection_is_shared_and_the_share_undone_by_keyboard_alone(
    portal: Start, visitor: Come, connection: Connection
) -> None:
    factories.make_person("una")
    owner = visitor(portal(), "bob")
    owner.open(f"/connections/{connection.pk}/")
    tab_to(owner, "Share", exact=True)
    owner.page.keyboard.press("Enter")
    owner.page.wait_for_url("**/shares/add/")
    tab_to(owner, "Share with")
    owner.page.keyboard.type("una")
    tab_to(owner, "I understand what I'm sharing")
    owner.page.keyboard.press("Space")
    tab_to(owner, "Share", exact=True)
    owner.page.keyboard.press("Enter")
    owner.sees("Invoices is shared with Una User.")
    assert Share.objects.filter(ended_at=None).count() == 1
    tab_to(owner, "Undo")
    owner.page.keyboard.press("Enter")
    owner.sees("Una User can no longer use Invoices.")
    assert not Share.objects.filter(ended_at=None).exists()


def test_selected_connections_are_disabled_by_keyboard_alone(portal: Start, visitor: Come, bob: User) -> None:
    for name in ("Archive", "Invoices"):
        factories.make_connection(name=name, owner=bob)
    owner = visitor(portal(), "bob")
    owner.open("/connections/")
    tab_to(owner, "Action for selected connections")
    owner.page.keyboard.type("Disable")
    tab_to(owner, "Select Invoices")
    owner.page.keyboard.press("Space")
    owner.page.keyboard.press("Enter")  # submits the form
    expect(owner.page.get_by_role("button", name="Disable connections (1)")).to_be_visible()
    tab_to(owner, "Disable connections (1)")
    owner.page.keyboard.press("Enter")
    owner.sees("In progress")
    assert BulkAction.objects.get().state != "draft"
