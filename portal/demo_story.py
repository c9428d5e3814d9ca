"""The history of the demo's organisation. It is created through the services, as if its people had done everything.

The sandbox issues all tokens used here, as if the people had consented on its pages.
"""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta

from django.db import transaction
from django.utils import timezone

from connections.management.commands import seed_demo
from connections.microsoft import account_claims, http, token_endpoint
from connections.models import AppRegistration, Connection, Share, Team, User
from connections.services.api_keys import api_keys
from connections.services.connections import app_only, connections, sign_in
from connections.services.consent import requests
from connections.services.governance import access_reviews, policy, violation_figures
from connections.services.mailboxes import mailboxes
from connections.services.operations import daily_figures
from connections.services.people import accounts, service_accounts
from connections.services.policy.rules import Effect, Rules
from connections.services.registry import app_registrations, credential_checks
from connections.services.registry.credentials import NewSecret
from connections.services.sharing import references, shares, teams
from portal import demo_figures
from portal.sandbox import seed
from portal.sandbox.client import Control

DAY = timedelta(days=1)
ADA, ALAN = "ada@contoso.example", "alan@contoso.example"


def tell(sandbox_url: str) -> None:
    """Create the organisation's history, unless there is a team or a connection already."""
    with transaction.atomic():
        if not Team.objects.exists() and not Connection.objects.exists():
            Story(Control(sandbox_url), timezone.now()).tell()


class Story:
    """The history of the organisation from seed_demo, from its first team to the decisions that are pending today."""

    def __init__(self, sandbox: Control, now: datetime) -> None:
        self.sandbox, self.now = sandbox, now
        people = {user.username: user for user in User.objects.all()}
        self.alice, self.bob, self.amir = people["alice"], people["bob"], people["amir"]
        self.dave, self.una = people["dave"], people["una"]
        self.app = AppRegistration.objects.get(client_id=seed.CONNECTIONS_APP)

    def tell(self) -> None:
        accounting = teams.add("Accounting", actor=self.alice)
        for member in (self.una, self.dave):
            teams.add_member(accounting, member, actor=self.alice)
        teams.add_member(teams.add("Customer support", actor=self.alice), self.bob, actor=self.alice)
        invoices = self._connect(self.bob, "Invoices inbox", ADA, "mail.read", "calendar.events")
        self._support_inbox()
        self._somebody_leaves()
        self._automate(invoices)
        self._share(invoices, accounting)
        self._make_policy()
        self._ask()
        # As in the form, the review ends with its last day.
        name, due = "Who still needs access?", (self.now + 15 * DAY).replace(hour=0, minute=0, second=0, microsecond=0)
        access_reviews.start(name, due_at=due, actor=self.alice, now=self.now)
        daily_figures.update(now=self.now)
        violation_figures.update(now=self.now)
        demo_figures.write(now=self.now)

    def _connect(self, owner: User, name: str, account: str, *chosen: str) -> Connection:
        """Create a delegated connection to which ``owner`` has signed in with a sandbox account."""
        connection = connections.start_delegated(self.app, name=name, chosen=chosen, actor=owner, now=self.now)
        sign_in.begin(connection, actor=owner, now=self.now)
        wanted = sign_in.scopes_to_request(connection)
        given = self.sandbox.issue_grant(self.app.client_id, account, list(wanted))["refresh_tokens"][0]
        _, application = credential_checks.live_applications(self.app)[0]
        request = token_endpoint.refresh_request(application, given, wanted, None)
        answer = token_endpoint.request_token_or_raise(token_endpoint.read_answer(http.client().send(request)))
        who = account_claims.account_from_claims(token_endpoint.unverified_claims(answer.id_token or ""))
        sign_in.complete(connection, actor=owner, answer=answer, account=who, now=self.now)
        return connection

    def _support_inbox(self) -> None:
        support = mailboxes.register(
            self.app.tenant, address="support@contoso.example", display_name="Support", actor=self.alice
        )
        inbox = self._connect(self.bob, "Support inbox", ADA, "mail.read", "shared_mailbox.read")
        mailboxes.attach(inbox, support, actor=self.bob)
        connections.probe_mailboxes(inbox, actor=self.bob, now=self.now)

    def _somebody_leaves(self) -> None:
        """Disable an account whose connection keeps working but needs a new owner."""
        lena = seed_demo.add_person("lena", name="Lena Leaver", password=secrets.token_urlsafe(24), group="")
        self._connect(lena, "Contract archive", ALAN, "mail.read")
        accounts.disable_person(lena, actor=self.alice, now=self.now)

    def _automate(self, invoices: Connection) -> None:
        """Create a robot that still uses the old secret of its rotated key, and a person's key that expires next week.

        The client secret of the robots' app registration expires in three weeks, also in the sandbox.
        """
        ends = self.now + 21 * DAY
        issued = self.sandbox.add_secret(seed.ROBOTS_APP, expires_at=ends.timestamp(), name="Robots")
        robots = app_registrations.register(
            self.app.tenant,
            name="Contoso Robots",
            client_id=seed.ROBOTS_APP,
            actor=self.alice,
            allows_delegated=False,
            allows_app_only=True,
            credential=NewSecret(issued["value"], expires_at=ends, label="Robots"),
        )
        report = app_only.connect(robots, name="Nightly report", chosen=["mail.read"], actor=self.alice, now=self.now)
        account = service_accounts.create(
            name="Invoice robot",
            purpose="Files the invoices that arrive by mail, every night.",
            responsible=self.bob,
            admin=False,
            auditor=False,
            actor=self.alice,
            now=self.now,
        )
        key, first_secret = api_keys.issue(
            account,
            name="Nightly job",
            scopes=["token:read"],
            expires_at=self.now + 90 * DAY,
            actor=self.alice,
            now=self.now,
        )
        api_keys.rotate(key, overlap=7 * DAY, expires_at=self.now + 180 * DAY, actor=self.alice, now=self.now)
        # Share the connections after the account's keys exist, because another key would then need a second person's
        # approval.
        for connection, owner in ((report, self.alice), (invoices, self.bob)):
            self._use(connection, account, owner, until=self.now + 80 * DAY)
        self._fetch(first_secret, report, invoices, invoices)
        _, secret = api_keys.issue(
            self.bob,
            name="Monthly spreadsheet",
            scopes=["token:read", "connections:read"],
            expires_at=self.now + 6 * DAY,
            connections=[invoices],
            actor=self.bob,
            now=self.now,
        )
        self._fetch(secret, invoices)

    def _fetch(self, secret: str, *fetched: Connection) -> None:
        """Record token requests, as if an automation had sent them with this secret."""
        address = "10.20.0.7"
        key = api_keys.authenticate(secret, address=address, now=self.now)
        for connection in fetched:
            api_keys.record_token_request(key, connection, address=address, now=self.now)

    def _use(self, connection: Connection, whom: User, owner: User, until: datetime | None = None) -> None:
        shares.share(connection, person=whom, level=Share.Level.USE, until=until, actor=owner, now=self.now)

    def _share(self, invoices: Connection, accounting: Team) -> None:
        """Share with a colleague, with a team for a month, and briefly with another person. Also create a reference."""
        references.create("invoices-inbox", invoices, actor=self.bob, now=self.now)
        self._use(invoices, self.una, self.bob)
        month = self.now + 30 * DAY
        shares.share(invoices, team=accounting, level=Share.Level.USE, until=month, actor=self.bob, now=self.now)
        shares.share(
            invoices,
            person=self.dave,
            level=Share.Level.MANAGE,
            until=self.now + timedelta(seconds=1),
            actor=self.bob,
            now=self.now,
        )
        shares.end_expired(now=self.now + timedelta(seconds=2))

    def _make_policy(self) -> None:
        rules = Rules(capabilities={"mail.send": Effect.APPROVAL}, longest_share_days=90, app_only_second_admin=True)
        policy.change(None, rules, actor=self.alice, now=self.now)

    def _ask(self) -> None:
        """Create a pending approval request, and a pending request for admin consent."""
        why = "Customers get the monthly newsletter from this account; the text is checked by two of us."
        connections.start_delegated(
            self.app, name="Newsletter", chosen=["mail.send"], actor=self.una, now=self.now, reason=why
        )
        phones = connections.start_delegated(
            self.app, name="Phone list", chosen=["directory.profiles"], actor=self.dave, now=self.now
        )
        why = "The intranet shows telephone numbers and departments. It reads them once a night."
        requests.request_consent(phones, reason=why, actor=self.dave, now=self.now)
