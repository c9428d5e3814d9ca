"""Many connections in the browser: bulk actions, several recipients, undo, and the search by keyboard alone."""

from playwright.sync_api import expect

from connections.models import BulkAction, Connection, Share, Team, User
from tests import factories
from tests.browser.browser_users import Come, Start, until


def test_many_connections_are_disabled_with_preview_progress_and_result(
    portal: Start, visitor: Come, bob: User
) -> None:
    for name in ("Archive", "Invoices", "Support"):
        factories.make_connection(name=name, owner=bob)
    factories.make_connection(name="Old", owner=bob, status="disabled")
    owner = visitor(portal(alive=True), "bob")
    owner.open("/connections/")
    owner.page.get_by_label("Select page").check()
    owner.page.get_by_label("Action for selected connections").select_option("Disable")
    owner.press("Preview")
    owner.sees("3 of 4 connections ready, 1 will be skipped", "It is already disabled.")
    owner.press("Disable connections (3)")
    owner.sees("3 done, 1 skipped")  # the page follows the progress by itself
    assert set(Connection.objects.values_list("status", flat=True)) == {"disabled"}
    until(lambda: BulkAction.objects.get().state == "done")


def test_sharing_with_three_people_and_a_team_takes_one_form_and_is_undone_with_a_click(
    portal: Start, visitor: Come, connection: Connection
) -> None:
    for name in ("una", "tina", "max"):
        factories.make_person(name)
    Team.objects.create(name="Finance")
    owner = visitor(portal(), "bob")
    owner.open(f"/connections/{connection.pk}/shares/add/")
    owner.type_in("Share with", "una")
    lines = owner.page.get_by_label("More recipients")
    lines.press_sequentially("tina")
    owner.page.get_by_role("option", name="Tina Teammate (tina)").wait_for()
    owner.page.keyboard.press("ArrowDown")
    owner.page.keyboard.press("Enter")
    expect(lines).to_have_value("Tina Teammate (tina)\n")
    lines.press_sequentially("max\nfinance")
    owner.tick("I understand what I'm sharing")
    owner.press("Share")
    owner.sees("Invoices is shared with Una User, Tina Teammate, Max Manager and Finance.")
    assert Share.objects.filter(ended_at=None).count() == 4
    owner.press("Undo")
    owner.sees("Una User, Tina Teammate, Max Manager and Finance can no longer use Invoices.")
    assert not Share.objects.filter(ended_at=None).exists()


def test_everything_is_found_by_keyboard_alone(portal: Start, visitor: Come, bob: User) -> None:
    factories.make_connection(name="Invoices inbox", owner=bob)
    owner = visitor(portal(), "bob")
    owner.open("/teams/")
    keyboard = owner.page.keyboard
    keyboard.press("/")
    keyboard.type("voices")
    keyboard.press("Enter")
    owner.page.wait_for_url("**/search/?q=voices")
    keyboard.press("/")
    keyboard.press("ArrowDown")
    expect(owner.page.get_by_role("link", name="Invoices inbox")).to_be_focused()
    keyboard.press("Enter")
    owner.page.wait_for_url("**/connections/*/")
    owner.sees("Invoices inbox")
