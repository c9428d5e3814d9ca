"""Requirements for every page: keyboard access, labels, no sideways scrolling on a phone, dark mode, no scripts needed."""

import re
from collections import deque
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from connections.models import Connection, Policy, User
from tests import factories
from tests.browser import organisation
from tests.browser.browser_users import Come, Portal, Start, Visitor, until
from tests.browser.keyboard import tab_to

PHONE = {"viewport": {"width": 390, "height": 844}}
SHORT = re.compile(r"/(connections|mailboxes|audit|people|incidents|requests|api-keys)/|/connections/\d+/")
LONGEST = 3000  # pixels of these pages on a phone, with 50 rows
OF_A_KIND = 2  # pages that differ only in a number
NO_PAGE = re.compile(r"/certificate/|\.(json|csv)(\?|$)|/admin/|/static/|\?.*script|download=|/sign-out/")

# Runs in the page and returns problems for people with a screen reader.
STUMBLING_BLOCKS = """() => {
  const found = [];
  const named = (el) => el.getAttribute("aria-label") || el.getAttribute("aria-labelledby") || el.textContent.trim();
  for (const field of document.querySelectorAll("input:not([type=hidden]), select, textarea")) {
    if (!field.labels.length && !field.getAttribute("aria-label")) { found.push("no label: " + field.name); }
  }
  for (const one of document.querySelectorAll("a[href], button, summary")) {
    if (!named(one)) { found.push("no name: " + one.outerHTML.slice(0, 80)); }
  }
  const ids = [...document.querySelectorAll("[id]")].map((el) => el.id);
  for (const id of new Set(ids.filter((id, at) => ids.indexOf(id) !== at))) { found.push("id twice: " + id); }
  for (const el of document.querySelectorAll("[aria-describedby], label[for]")) {
    for (const id of (el.getAttribute("aria-describedby") || el.htmlFor).split(/\\s+/)) {
      if (!document.getElementById(id)) { found.push("points nowhere: " + id); }
    }
  }
  if (document.querySelectorAll("h1").length !== 1) { found.push("not one h1"); }
  if (!document.documentElement.lang) { found.push("no language"); }
  return found;
}"""


@pytest.fixture
def full(portal: Start, alice: User, bob: User, carol: User) -> Portal:
    """A portal after a year of use."""
    organisation.make(alice, bob)
    return portal()


def every_page(visitor: Visitor) -> Iterator[str]:
    """Follow all links, a few of each kind; yields the path of each open page."""
    waiting, known, seen = deque(["/"]), {"/"}, dict[str, int]()
    while waiting:
        path = waiting.popleft()
        kind = re.sub(r"\d+", "N", path.partition("?")[0]) + ("?" if "?" in path else "")
        if seen.get(kind, 0) == OF_A_KIND:
            continue
        seen[kind] = seen.get(kind, 0) + 1
        assert visitor.open(path) == 200, path
        yield path
        links: list[str] = visitor.page.eval_on_selector_all("a[href]", "all => all.map((one) => one.href)")
        for link in links:
            parts = urlsplit(link)
            target = parts.path + (f"?{parts.query}" if parts.query else "")
            if link.startswith(visitor.portal.url) and target not in known and not NO_PAGE.search(target):
                known.add(target)
                waiting.append(target)
    assert len(seen) > 10, sorted(seen)


@pytest.mark.parametrize("username", ["alice", "bob", "carol"])
def test_every_page_fits_a_phone_and_works_with_a_screen_reader(full: Portal, visitor: Come, username: str) -> None:
    here = visitor(full, username, **PHONE)
    arguments: dict[str, Any] = {}
    for path in every_page(here):
        blocks = here.page.evaluate(STUMBLING_BLOCKS)
        if wide := here.sideways():
            blocks.append(f"scrolls {wide} px sideways")
        height = here.page.evaluate("document.documentElement.scrollHeight")
        if SHORT.fullmatch(path) and height > LONGEST:
            blocks.append(f"is {height} px long")
        if blocks:
            arguments[path] = blocks
    assert arguments == {}


def test_the_navigation_works_on_a_phone(portal: Start, visitor: Come, bob: User) -> None:
    here = visitor(portal(), "bob", **PHONE, has_touch=True)
    entry = here.page.get_by_role("navigation", name="Pages").get_by_role("link", name="Shared mailboxes")
    assert not entry.is_visible()
    here.page.get_by_text("Menu", exact=True).tap()
    entry.tap()
    here.sees("No shared mailboxes yet")
    assert here.path == "/mailboxes/"


def test_a_phone_shows_the_first_rows_and_folds_what_is_rarely_read(portal: Start, visitor: Come, bob: User) -> None:
    for number in range(40):
        connection = factories.make_connection(owner=bob, name=f"Connection {number:02}")
    here = visitor(portal(), "bob", **PHONE, has_touch=True)
    here.open("/connections/")
    rows = here.page.locator(".table-stack > tbody > tr")
    assert rows.first.is_visible()
    assert not rows.last.is_visible()
    here.page.get_by_role("button", name="Show").tap()
    assert rows.last.is_visible()
    here.open("/connections/")
    here.page.get_by_label("Select page").check()
    assert rows.last.is_visible(), "nothing is selected unseen"
    here.open(f"/connections/{connection.pk}/")
    history = here.page.get_by_text("No events recorded yet.")
    assert not history.is_visible()
    here.page.get_by_role("heading", name="History").tap()
    assert history.is_visible()


def test_dark_mode_follows_the_system_and_the_button(portal: Start, visitor: Come, bob: User) -> None:
    factories.make_connection(owner=bob)
    here = visitor(portal(), "bob", color_scheme="dark")
    assert brightness(here) < 60
    here.page.locator("summary", has_text="Account menu").click()
    here.press("Light mode")
    until(lambda: brightness(here) > 200)  # wait for the fade
    here.open("/connections/")
    assert brightness(here) > 200, "the choice is kept"


def brightness(visitor: Visitor) -> float:
    """Return the brightness of the page's background, from 0 to 255."""
    red, green, blue = visitor.page.evaluate(
        """() => { const pen = document.createElement("canvas").getContext("2d");
        pen.fillStyle = getComputedStyle(document.body).backgroundColor;
        pen.fillRect(0, 0, 1, 1);
        return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3); }"""
    )
    return float(0.299 * red + 0.587 * green + 0.114 * blue)


def test_a_connection_is_opened_and_checked_by_keyboard_alone(full: Portal, visitor: Come) -> None:
    Policy.objects.all().delete()  # so that no approval is needed before the sign-in
    here = visitor(full)
    here.open("/sign-in/")
    tab_to(here, "Username")
    here.page.keyboard.type("bob")
    tab_to(here, "Password")
    here.page.keyboard.type(factories.PASSWORD)
    here.page.keyboard.press("Enter")
    here.sees("My connections")
    tab_to(here, "Skip to content")
    here.page.keyboard.press("Enter")
    connection = Connection.objects.filter(
        owner__username="bob",
        status="reconnect_needed",
        authentication_type="authorization_code",
        app_registration__client_id=factories.CLIENT_ID,
    ).first()
    assert connection is not None
    tab_to(here, connection.name)
    here.page.keyboard.press("Enter")
    here.sees("Your action is required.")
    assert here.path == f"/connections/{connection.pk}/"
    tab_to(here, f"Sign in again as {connection.account_username}")
    here.page.keyboard.press("Enter")
    here.sees("to continue to")


def test_an_account_is_connected_without_any_script(portal: Start, visitor: Come, bob: User) -> None:
    factories.make_app_registration()
    here = visitor(portal(), "bob", java_script_enabled=False)
    here.follow("New connection")
    here.follow("Microsoft Outlook 365", exact=False)
    here.type_in("Name", "Invoices")
    here.tick("Trigger on new mail in a shared mailbox")
    here.press("Show permissions")
    here.sees("Mail.Read.Shared")
    here.tick("Read mail")
    here.press("Connect")
    here.signs_in_at_microsoft(factories.ADA)
    here.accepts()
    here.sees("You're connected as ada@contoso.example")
    here.press("Test connection")
    here.sees("The connection works. Microsoft renewed the token")
