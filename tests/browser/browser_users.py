"""People in front of a browser."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Response, expect

from portal.sandbox import seed
from tests import factories
from tests.browser.secret_scanner import Watch

PATIENCE = 10_000  # milliseconds to wait for an element
# People whose sandbox password is not derived from their address.
_PASSWORDS = {"admin@contoso.example": "sandbox-katherine", "admin@fabrikam.example": "sandbox-edsger"}


# Environment of a portal that uses the sandbox for sign-in with Microsoft.
MICROSOFT_SIGN_IN = {
    "LOGIN_MICROSOFT_ENVIRONMENT": "sandbox",
    "LOGIN_MICROSOFT_TENANT": seed.CONTOSO,
    "LOGIN_MICROSOFT_CLIENT_ID": seed.SIGN_IN_APP,
    "LOGIN_MICROSOFT_CLIENT_SECRET": seed.SIGN_IN_SECRET,
}


@dataclass
class Portal:
    url: str
    microsoft_url: str
    watch: Watch


@dataclass
class Visitor:
    """A person with a browser window."""

    portal: Portal
    context: BrowserContext
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.context.set_default_timeout(PATIENCE)
        self.page: Page = self.context.new_page()
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.complaints.append(f"script error: {error}"))
        self.page.on("response", self._on_response)

    def _on_console(self, message: ConsoleMessage) -> None:
        # Chromium also logs this for pages with an error status; _on_response detects files that fail.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.complaints.append(f"console on {self.page.url.partition('?')[0]}: {message.text}")

    def _on_response(self, response: Response) -> None:
        if response.status >= 400 and response.request.resource_type != "document":
            self.complaints.append(f"{response.status} for {response.url}")

    def open(self, path: str) -> int:
        """Open a page of the portal; returns the HTTP status."""
        response = self.page.goto(path)
        return response.status if response else 0

    @property
    def path(self) -> str:
        assert self.page.url.startswith(self.portal.url), self.page.url.partition("?")[0]
        return self.page.url.removeprefix(self.portal.url).partition("?")[0]

    def sees(self, *texts: str) -> None:
        """Assert that each text is visible on the page, or appears soon."""
        for text in texts:
            expect(self.page.get_by_text(text).filter(visible=True).first).to_be_visible(timeout=PATIENCE)

    def follow(self, name: str, *, exact: bool = True) -> None:
        self.page.get_by_role("link", name=name, exact=exact).first.click()

    def press(self, name: str, *, exact: bool = True) -> None:
        self.page.get_by_role("button", name=name, exact=exact).first.click()

    def type_in(self, label: str, value: str) -> None:
        """Type into the page's field with this label."""
        self.page.locator("main").get_by_label(label).first.fill(value)

    def tick(self, label: str) -> None:
        """Tick a box or choose a radio button."""
        self.page.get_by_label(label).first.check()

    def last_seen(self) -> str:
        """Return the current page, for the report of a failed test."""
        return f"--- {self.page.url.partition('?')[0]}\n{self.page.locator('body').inner_text()[:2000]}\n---"

    def sign_in(self, username: str) -> None:
        self.open("/sign-in/")
        self.type_in("Username", username)
        self.type_in("Password", factories.PASSWORD)
        self.press("Sign in")
        expect(self.page).to_have_url(f"{self.portal.url}/")

    def signs_in_at_microsoft(self, upn: str) -> None:
        """Enter name and password on Microsoft's page, or pick the account there."""
        expect(self.page).to_have_url(_starts_with(self.portal.microsoft_url))
        if self.page.get_by_role("heading", name="Pick an account").is_visible():
            self.press("Use another account", exact=False)
        self.page.get_by_label("Email or user name").fill(upn)
        self.page.get_by_label("Password").fill(_PASSWORDS.get(upn) or f"sandbox-{upn.partition('@')[0]}")
        self.press("Sign in")

    def accepts(self) -> None:
        expect(self.page.get_by_role("heading", name="Permissions requested")).to_be_visible()
        self.press("Accept")

    def back_in_portal(self) -> None:
        """Wait until Microsoft has sent the browser back."""
        expect(self.page).to_have_url(_starts_with(self.portal.url))

    def sideways(self) -> int:
        """Return how many pixels the page can be scrolled sideways."""
        result: Any = self.page.evaluate(
            "Math.max(document.documentElement.scrollWidth, document.body.scrollWidth) - window.innerWidth"
        )
        return max(0, int(result))


def _starts_with(url: str) -> Any:
    import re

    return re.compile(rf"^{re.escape(url)}/")


def until(what: Callable[[], bool], *, seconds: float = 25) -> None:
    """Wait until the running portal has done something."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"it did not happen within {seconds:g} seconds"
        time.sleep(0.1)


Start = Callable[..., Portal]
Come = Callable[..., Visitor]
