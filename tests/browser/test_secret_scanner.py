"""The secret scanner finds planted secrets. All other browser tests end with a scan."""

import secrets
import urllib.request
from collections.abc import Callable

import pytest
from django.test import Client

from connections import audit
from connections.models import Connection, User
from connections.models.audit import AuditAction
from portal.celery import app
from tests import factories
from tests.browser.browser_users import Portal, Visitor
from tests.browser.secret_scanner import Watch
from tests.conftest import logs_of_run

SignedIn = Callable[[User], Client]
PLACES = {"database", "audit", "session", "broker", "log", "page"}


@pytest.fixture
def watch(portal: Callable[..., Portal], visitor: Callable[..., Visitor], bob: User) -> Watch:
    """A portal in which bob has connected an account."""
    registration = factories.make_app_registration()
    here = portal()
    member = visitor(here, "bob")
    member.open(f"/connect/several/?app={registration.pk}")
    member.type_in("Name", "Invoices")
    member.tick("Read mail")
    member.press("Connect")
    member.signs_in_at_microsoft(factories.ADA)
    member.accepts()
    member.sees("You're connected as ada@contoso.example")
    return here.watch


def test_it_knows_every_issued_secret(watch: Watch) -> None:
    kinds = set(watch.secrets().values())
    assert kinds == {"code", "code_verifier", "client_secret", "access_token", "refresh_token", "id_token"}
    connection = Connection.objects.get()
    assert watch.secrets()[connection.refresh_token or ""] == "refresh_token"
    assert watch.secrets()[connection.access_token or ""] == "access_token"


def test_it_finds_clear_text_in_every_place(watch: Watch, signed_in: SignedIn, bob: User) -> None:
    watch.logs = logs_of_run()
    values = {place: f"planted-{place}-{secrets.token_hex(20)}" for place in PLACES}
    watch.known |= {value: place for place, value in values.items()}
    assert watch.leaks() == []

    Connection.objects.update(status_cause=values["database"])
    audit.record(AuditAction.CONNECTION_CHANGED, Connection.objects.get(), actor=bob, changes={"name": values["audit"]})
    session = signed_in(bob).session
    session["note"] = values["session"]
    session.save()
    app.send_task("nobody.takes.this", args=[values["broker"]])
    with watch.logs[-1].open("a") as log:
        log.write(f"Microsoft said {values['log']}\n")
    urllib.request.urlopen(f"{watch.portal.url}/sign-in/?next=/{values['page']}").close()

    leaks = watch.leaks()
    # All six are found, and secrets in database columns are also found in the raw database file.
    assert {line.partition(" in ")[0] for line in leaks} == PLACES
    assert {"audit in audit trail", "audit in database", "session in sessions", "broker in broker"} <= set(leaks)
    assert {"page in pages", f"log in log {watch.logs[-1].name}"} <= set(leaks)
    watch.known.clear()
    watch.logs[-1].unlink()
