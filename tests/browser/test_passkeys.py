"""A passkey in a real browser, with Chromium's virtual authenticator."""

from collections.abc import Callable

from playwright.sync_api import expect

from connections.models import SecondFactor, User
from tests import factories
from tests.browser.browser_users import Portal, Visitor

Start = Callable[..., Portal]
Come = Callable[..., Visitor]


def plug_in(visitor: Visitor) -> None:
    """Give the browser an authenticator that confirms by itself."""
    devtools = visitor.context.new_cdp_session(visitor.page)
    devtools.send("WebAuthn.enable")
    options = {"protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True}
    options |= {"isUserVerified": True, "automaticPresenceSimulation": True}
    devtools.send("WebAuthn.addVirtualAuthenticator", {"options": options})


def test_a_passkey_is_added_and_used_to_sign_in(portal: Start, visitor: Come, bob: User) -> None:
    here = visitor(portal(), "bob")
    plug_in(here)
    here.open("/account/security/")
    here.follow("Add passkey")
    here.press("Add passkey")
    here.sees("Save these codes now")
    factor = SecondFactor.objects.get(person=bob)
    assert factor.kind == SecondFactor.Kind.PASSKEY
    here.open("/account/sessions/")
    here.press("Sign out everywhere")

    here.open("/sign-in/")
    here.type_in("Username", "bob")
    here.type_in("Password", factories.PASSWORD)
    here.press("Sign in")
    here.sees("Confirm it's you")
    assert here.path == "/sign-in/second-factor/"
    here.press("Use passkey")
    expect(here.page).to_have_url(f"{here.portal.url}/")
    factor.refresh_from_db()
    assert factor.used_at is not None
