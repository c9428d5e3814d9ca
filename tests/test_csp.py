"""Security headers: no inline code, no external content, no caching, no frames."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from typing import Any

import pytest
from django.conf import settings as portal_settings
from django.test import Client, RequestFactory
from django.utils import timezone
from django.views import defaults

from connections.models import AuditEvent, Connection, ConsentLink, MailboxAccess, User
from tests import browser_sessions, factories, full_dataset, permissions_table

pytestmark = pytest.mark.django_db


# The other people see one of their pages.
READERS = ("bob", "max", "dave", "alice", "carol")


@dataclass(frozen=True)
class Seen:
    """One response with its person and URL; ``page`` says whether it is a page rather than a rejected method."""

    where: str
    person: str
    page: bool
    answer: Any

    @property
    def html(self) -> str:
        is_page = self.answer["Content-Type"].startswith("text/html")
        return str(self.answer.content.decode()) if is_page else ""


def answers(contoso: full_dataset.World) -> Iterator[Seen]:
    """Yield the responses of every URL to every person, including errors."""
    for person in ("nobody", *READERS):
        client = Client() if person == "nobody" else factories.signed_in(contoso.people[person])
        for row in permissions_table.rows():
            if row.method == "GET":
                answer = client.get(contoso.url(row.name, row.route.partition("/")[2]))
                yield Seen(f"{person} {row.route}", person, row.of(person) != "405", answer)
        yield Seen(f"{person} nowhere", person, False, client.get("/no/such/page/"))
        yield Seen(f"{person} wrong method", person, False, client.post("/"))
        yield Seen(f"{person} static", person, False, client.get("/static/portal/portal.css"))


_seen: list[Seen] = []


@pytest.fixture
def all_seen(contoso: full_dataset.World) -> list[Seen]:
    """All responses, requested once for all tests."""
    if not _seen:
        _seen.extend(answers(contoso))
    return _seen


def test_every_response_has_the_strict_headers(all_seen: list[Seen]) -> None:
    seen = set()
    for visit in all_seen:
        where, answer = visit.where, visit.answer
        assert answer.has_header("Content-Security-Policy"), where
        policy = parsed(answer["Content-Security-Policy"])
        assert policy["default-src"] == ["'none'"], where
        for part in ("script-src", "style-src", "font-src", "connect-src"):
            assert policy[part] == ["'self'"], where
        assert policy["base-uri"] == policy["frame-ancestors"] == ["'none'"], where
        assert "unsafe" not in answer["Content-Security-Policy"], where
        assert answer["X-Content-Type-Options"] == "nosniff", where
        if not where.endswith("static"):
            assert answer["X-Frame-Options"] == "DENY", where
            # The path of a sign-in link is a secret, but Django's CSRF check needs the origin.
            secret_path = where.endswith(" sign_in_link")
            assert answer["Referrer-Policy"] == ("strict-origin" if secret_path else "same-origin"), where
            assert answer["X-Request-ID"], where
        seen.add(answer.status_code)
    assert seen >= {200, 302, 400, 403, 404, 405}


def parsed(policy: str) -> dict[str, list[str]]:
    return {name: rest for name, *rest in (part.split() for part in policy.split(";") if part.strip())}


def test_forms_go_to_the_portal_or_to_microsoft_only(contoso: full_dataset.World, settings: Any) -> None:
    client = factories.signed_in(contoso.people["bob"])
    assert parsed(client.get("/")["Content-Security-Policy"])["form-action"] == [
        "'self'",
        "https:",
        settings.MICROSOFT_SANDBOX_URL,
    ]
    settings.MICROSOFT_SANDBOX_URL = ""
    assert parsed(client.get("/")["Content-Security-Policy"])["form-action"] == ["'self'", "https:"]


def test_a_crash_is_a_page_with_the_same_policy(contoso: full_dataset.World, monkeypatch: pytest.MonkeyPatch) -> None:
    from connections.views import home

    def crash(user: User) -> None:
        raise RuntimeError("eyJ0eXAi.recognisable.access-token")

    monkeypatch.setattr(home, "_member_context", crash)
    client = factories.signed_in(contoso.people["bob"])
    client.raise_request_exception = False
    answer = client.get("/")
    assert answer.status_code == 500
    assert parsed(answer["Content-Security-Policy"])["default-src"] == ["'none'"]
    assert answer["X-Request-ID"] in answer.content.decode()
    assert "recognisable" not in answer.content.decode()
    assert_nothing_inline(answer.content.decode(), "500")


class Inline(HTMLParser):
    """Collects inline code that a strict policy forbids, and external URLs."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "style" or (tag == "script" and not values.get("src") and values.get("type") != "application/json"):
            self.found.append(f"<{tag}>")
        for name, value in attrs:
            if name == "style" or name.startswith(("on", "hx-on")):
                self.found.append(f"<{tag} {name}>")
            if name in ("src", "href", "action", "formaction") and (value or "").strip().lower().startswith(
                "javascript"
            ):
                self.found.append(f"<{tag} {name}={value}>")
        fetched = values.get("src") if tag in ("script", "img", "iframe", "source") else None
        if tag == "link" and values.get("rel") != "canonical":
            fetched = values.get("href")
        if fetched and not fetched.startswith(("/static/", "data:")):
            self.found.append(f"<{tag}> from {fetched}")
        if tag == "a" and values.get("target") == "_blank" and "noopener" not in (values.get("rel") or ""):
            self.found.append("<a target=_blank> without noopener")


def assert_nothing_inline(text: str, where: str) -> None:
    reader = Inline()
    reader.feed(text)
    assert not reader.found, (where, reader.found)


def test_the_check_itself_finds_inline_things() -> None:
    for text in (
        "<p style='color:red'>",
        "<button onclick='x()'>",
        "<script>x()</script>",
        "<a href=' javascript:x()'>",
        "<img src='https://elsewhere.example/x.png'>",
    ):
        reader = Inline()
        reader.feed(text)
        assert reader.found, text


def test_no_page_has_anything_inline(all_seen: list[Seen]) -> None:
    pages = [visit for visit in all_seen if visit.html]
    for page in pages:
        assert_nothing_inline(page.html, page.where)
    assert len(pages) > 100


@pytest.mark.parametrize("status", [status for status in Connection.Status if status != "active"])
def test_failed_connections_are_shown_without_anything_inline(status: str, contoso: full_dataset.World) -> None:
    Connection.objects.update(status=status, status_cause="<b onclick=x>cause</b>", sign_in_started_at=timezone.now())
    _assert_pages_are_clean(contoso)


def test_a_rejected_app_registration_is_shown_without_anything_inline(contoso: full_dataset.World) -> None:
    type(contoso.app).objects.update(rejected_at=timezone.now(), rejected_cause="<style>x</style>", rejected_code="X")
    contoso.app.credentials.update(rejected_at=timezone.now(), rejected_code="<i>")
    MailboxAccess.objects.update(state="unreachable", cause="<script>x</script>", action="<p style=x>")
    for number, state in enumerate(ConsentLink.State):
        ConsentLink.objects.create(
            app_registration=contoso.app,
            directory_id="<script>",
            state_digest=str(number),
            state=state,
            cause="<img src=x onerror=y>",
            verified_at=timezone.now(),
        )
    _assert_pages_are_clean(contoso)


def _assert_pages_are_clean(contoso: full_dataset.World) -> None:
    for person in ("alice", "bob", "carol"):
        client = factories.signed_in(contoso.people[person])
        for name in ("home", "connections", "connection", "app", "apps", "mailbox", "mailboxes", "tenant", "account"):
            answer = client.get(contoso.url(name))
            assert answer.status_code == 200, (person, name)
            assert_nothing_inline(answer.content.decode(), f"{person} {name}")


def test_what_people_typed_is_shown_as_text(contoso: full_dataset.World) -> None:
    bad = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7|add:7 }}"
    for row in (contoso.connection, contoso.app, contoso.tenant):
        type(row).objects.filter(pk=row.pk).update(name=bad)
    User.objects.update(first_name=bad, last_name=bad)
    Connection.objects.update(account_name=bad, account_username=bad, extra_scopes=bad)
    type(contoso.mailbox).objects.update(display_name=bad)
    contoso.app.credentials.update(label=bad)
    # Created in the same way as by audit.record(), because events cannot be changed later.
    event = AuditEvent.objects.create(
        action="connection.changed",
        target_type="Connection",
        target_id=str(contoso.connection.pk),
        target_name=bad,
        actor_name=bad,
        changes={bad: [bad, bad], "fact": bad},
    )
    contoso = replace(contoso, event=event)
    for answer in answers(contoso):
        assert_nothing_inline(answer.html, answer.where)
        assert "<script>alert" not in answer.html, answer.where
        assert "14 }}" not in answer.html, answer.where


def test_djangos_own_refusals_are_our_pages(contoso: full_dataset.World) -> None:
    client = Client(enforce_csrf_checks=True)
    browser_sessions.sign_in(client, contoso.people["bob"])
    answer = client.post("/sign-out/")
    assert answer.status_code == 403
    assert_nothing_inline(answer.content.decode(), "csrf")
    assert "Content-Security-Policy" in answer
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    request = RequestFactory().get("/")
    for view, arguments in ((defaults.bad_request, (None,)), (defaults.server_error, ())):
        assert_nothing_inline(view(request, *arguments).content.decode(), view.__name__)


def test_pages_behind_the_sign_in_are_not_cached(all_seen: list[Seen]) -> None:
    """After sign-out, the back button must not show them."""
    behind = [visit for visit in all_seen if visit.page and visit.person in READERS]
    # These are the same for everybody, strangers included.
    public = ("api:openapi-json", "openid_configuration", "jwks")
    behind = [visit for visit in behind if not visit.where.endswith(public)]
    for visit in behind:
        assert "no-store" in visit.answer["Cache-Control"], visit.where
        assert "private" in visit.answer["Cache-Control"], visit.where
    assert len(behind) > 100


def test_static_files_may_be_cached(contoso: full_dataset.World) -> None:
    answer = factories.signed_in(contoso.people["bob"]).get("/static/portal/portal.css")
    assert answer.status_code == 200
    assert "no-store" not in answer.get("Cache-Control", "")


def test_cookies_are_closed_to_scripts_and_other_sites(client: Client, bob: User) -> None:
    client.get("/sign-in/")
    client.post("/sign-in/", {"username": "bob", "password": factories.PASSWORD})
    session = client.cookies[portal_settings.SESSION_COOKIE_NAME]
    assert session["httponly"]
    assert session["samesite"] == "Lax"
    assert client.cookies["csrftoken"]["samesite"] == "Lax"


def test_signing_in_changes_the_session_and_signing_out_ends_it(bob: User) -> None:
    client = Client()
    session = client.session
    session["planted"] = "by an attacker"
    session.save()
    name = portal_settings.SESSION_COOKIE_NAME
    planted = str(session.session_key)
    client.cookies[name] = planted
    client.post("/sign-in/", {"username": "bob", "password": factories.PASSWORD})
    signed_in = client.cookies[name].value
    assert signed_in != planted
    client.post("/sign-out/")
    thief = Client()
    for key in (planted, signed_in):
        thief.cookies[name] = key
        assert thief.get("/account/").status_code == 302
    assert portal_settings.SESSION_COOKIE_AGE <= 12 * 3600


def test_behind_https_cookies_and_pages_use_https_only() -> None:
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "portal.settings",
        "PORTAL_URL": "https://portal.example.org",
        "DATABASE_URL": "sqlite://:memory:",
    }
    shown = (
        "from django.conf import settings as s; "
        "print(s.SESSION_COOKIE_SECURE, s.CSRF_COOKIE_SECURE, s.SECURE_SSL_REDIRECT, s.SECURE_HSTS_SECONDS > 0)"
    )
    run = [sys.executable, "-c", f"import django; django.setup(); {shown}"]
    result = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.split() == ["True"] * 4
