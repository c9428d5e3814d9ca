"""Tokens of the portal at a real IMAP server, which checks audience, permission and account."""

import imaplib
from collections.abc import Iterator
from typing import Any

import pytest
from django.utils import timezone
from m365_portal import xoauth2

from connections.models import AppRegistration, Connection, User
from connections.services.connections import app_only
from portal.sandbox.client import Control
from tests import factories
from tests.flows.conftest import Meet
from tests.flows.test_resources import connect, token_of, walk
from tests.imap_server import imap_server

SUPPORT = "support@contoso.example"


@pytest.fixture
def server(sandbox: Control) -> Iterator[int]:
    with imap_server(sandbox.base_url, factories.DIRECTORY_ID, for_applications=[SUPPORT]) as port:
        yield port


def log_in(port: int, mailbox: str, body: dict[str, Any]) -> bool:
    """Whether the server accepts the token for this mailbox."""
    client = imaplib.IMAP4("127.0.0.1", port)
    try:
        client.authenticate("XOAUTH2", lambda _: xoauth2.sasl_response(mailbox, body["access_token"]))
        return client.select("INBOX")[0] == "OK"
    except imaplib.IMAP4.error:
        return False
    finally:
        client.shutdown()


def test_one_delegated_sign_in_opens_the_persons_mailbox(person: Meet, bob: User, server: int) -> None:
    member = person(bob)
    walk(member, connect(member, factories.make_app_registration().pk))
    connection = Connection.objects.get()
    graph, imap, azure = (token_of(bob, connection, resource=key) for key in ("graph", "exchange", "azure"))
    assert log_in(server, factories.ADA, imap)
    assert not log_in(server, "grace@contoso.example", imap), "another person's mailbox"
    assert not log_in(server, factories.ADA, graph), "another audience"
    assert not log_in(server, factories.ADA, azure)
    forged = imap["access_token"][:-8] + "AAAAAAAA"
    assert not log_in(server, factories.ADA, {"access_token": forged})


def test_a_token_without_the_permission_is_refused(person: Meet, bob: User, server: int) -> None:
    member = person(bob)
    walk(member, connect(member, factories.make_app_registration().pk, chosen=["smtp.send"]))
    assert not log_in(server, factories.ADA, token_of(bob, Connection.objects.get()))


def test_an_application_opens_the_mailboxes_it_was_given(
    alice: User, sandbox: Control, server: int, app: AppRegistration
) -> None:
    sandbox.grant_consent(factories.CLIENT_ID, roles=["Mail.Read", "exchange/IMAP.AccessAsApp"])
    robot = app_only.connect(app, name="Robot", chosen=["imap.access"], actor=alice, now=timezone.now())
    body = token_of(alice, robot)
    assert body["resource"] == "exchange"
    assert log_in(server, SUPPORT, body)
    assert not log_in(server, factories.ADA, body), "Exchange gave the application no access to this mailbox"
    mail = app_only.connect(app, name="Mail", chosen=["mail.read"], actor=alice, now=timezone.now())
    assert not log_in(server, SUPPORT, token_of(alice, mail)), "another audience"


def test_an_application_without_the_role_is_refused(alice: User, sandbox: Control, server: int) -> None:
    sandbox.grant_consent(factories.CLIENT_ID, roles=["exchange/SMTP.SendAsApp"])
    app = factories.make_app_registration()
    robot = app_only.connect(app, name="Robot", chosen=["smtp.send"], actor=alice, now=timezone.now())
    assert not log_in(server, SUPPORT, token_of(alice, robot))
