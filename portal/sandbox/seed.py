"""The initial state of a sandbox. All its IDs, passwords and secrets are fixed, public and worthless."""

import uuid
from typing import Any

from portal.sandbox import consents
from portal.sandbox.state import (
    CONSUMERS,
    EVERYBODY,
    MULTI_TENANT,
    App,
    Directory,
    Person,
    Secret,
    SharedMailbox,
    World,
)

CONTOSO = "5c0a70b5-1e5d-4c36-9d5e-7a1c0d2f4b10"
LITWARE = "b17a3c5e-9d42-4f68-8e0b-3a6c7d1f5e84"
FABRIKAM = "8fab21ca-6b1d-4d3e-a1f7-2c9b5e0d6a42"

CONNECTIONS_APP = "c0117ec7-10a5-4a9b-8f3e-5d2b7c6e1a01"
CONNECTIONS_SECRET = "sbx8Q~connections-secret-of-the-sandbox.01"
CONNECTIONS_SECRET_ID = "1d5ec2e7-0001-4b6a-9c1d-0a1b2c3d4e01"
ROBOTS_APP = "20b0750a-22b6-4c1e-9f4d-6e3c8d7f2b02"
ROBOTS_SECRET = "sbx8Q~robots-secret-of-the-sandbox.02"
ROBOTS_SECRET_ID = "1d5ec2e7-0002-4b6a-9c1d-0a1b2c3d4e02"
MULTI_APP = "3017e7a4-33c7-4d2f-8a5e-7f4d9e8a3c03"
MULTI_SECRET = "sbx8Q~multi-secret-of-the-sandbox.03"
MULTI_SECRET_ID = "1d5ec2e7-0003-4b6a-9c1d-0a1b2c3d4e03"
SIGN_IN_APP = "4519a1b2-44d8-4e3a-9b6f-8a5eaf9b4d04"
SIGN_IN_SECRET = "sbx8Q~sign-in-secret-of-the-sandbox.04"
SIGN_IN_SECRET_ID = "1d5ec2e7-0004-4b6a-9c1d-0a1b2c3d4e04"
ARCHIVE_APP = "5a2c417e-55e9-4f4b-8c7a-9b6fb0ac5e05"
ARCHIVE_SECRET = "sbx8Q~archive-secret-that-has-expired.05"
ARCHIVE_SECRET_ID = "1d5ec2e7-0005-4b6a-9c1d-0a1b2c3d4e05"
DESKTOP_APP = "6de5c709-66fa-4a5c-9d8b-ac7ac1bd6f06"

DAY = 86400.0


def fixed_id(word: str) -> str:
    """Return a GUID that is the same for the same word in every sandbox."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"https://sandbox.invalid/{word}"))


def plant(world: World) -> None:
    """Fill the state with its initial content. The caller must hold the lock."""
    world.clear()
    world.directories = {
        CONTOSO: Directory(CONTOSO, "Contoso", "contoso.example"),
        FABRIKAM: Directory(FABRIKAM, "Fabrikam", "fabrikam.example"),
        LITWARE: Directory(LITWARE, "Litware", "litware.example"),
        CONSUMERS: Directory(CONSUMERS, "Personal accounts", "outlook.example"),
    }
    _plant_people(world)
    _plant_mailboxes(world)
    _plant_apps(world)


def _plant_people(world: World) -> None:
    def add(tenant: str, upn: str, name: str, job: str, **more: Any) -> None:
        password = f"sandbox-{name.split()[0].lower()}"
        world.people[fixed_id(upn)] = Person(
            id=fixed_id(upn), tenant=tenant, upn=upn, mail=upn, name=name, password=password, job_title=job, **more
        )

    add(CONTOSO, "ada@contoso.example", "Ada Lovelace", "Head of Analysis")
    add(CONTOSO, "grace@contoso.example", "Grace Hopper", "Internal Audit")
    add(CONTOSO, "alan@contoso.example", "Alan Turing", "Research")
    add(CONTOSO, "hedy@contoso.example", "Hedy Lamarr", "Sales")
    add(CONTOSO, "admin@contoso.example", "Katherine Johnson", "Global Administrator", admin=True)
    add(CONTOSO, "robot@contoso.example", "Invoice Robot", "Service account")
    add(CONTOSO, "dennis@contoso.example", "Dennis Ritchie", "Left last spring", disabled=True)
    add(CONTOSO, "donald@contoso.example", "Donald Knuth", "Volunteer without a licence", licensed=False)
    add(FABRIKAM, "barbara@fabrikam.example", "Barbara Liskov", "Engineering")
    add(FABRIKAM, "admin@fabrikam.example", "Edsger Dijkstra", "Global Administrator", admin=True)
    add(LITWARE, "frances@litware.example", "Frances Allen", "Operations")
    add(LITWARE, "admin@litware.example", "John Backus", "Global Administrator", admin=True)
    add(CONSUMERS, "margaret@outlook.example", "Margaret Hamilton", "Personal account")
    guest = "barbara_fabrikam.example#EXT#@contoso.example"
    add(CONTOSO, guest, "Barbara Liskov", "Guest from Fabrikam", guest=True, licensed=False)
    world.people[fixed_id(guest)].mail = "barbara@fabrikam.example"


def _plant_mailboxes(world: World) -> None:
    for tenant, domain, member in ((FABRIKAM, "fabrikam.example", "barbara"), (LITWARE, "litware.example", "frances")):
        address = f"desk@{domain}"
        members = [f"{member}@{domain}"]
        world.mailboxes[address] = SharedMailbox(fixed_id(address), tenant, address, "Front desk", members)
    for word, name, members in (
        ("support", "Support", ["ada@contoso.example", "robot@contoso.example"]),
        ("sales", "Sales", ["hedy@contoso.example", "alan@contoso.example"]),
        ("info", "Information", ["ada@contoso.example", "alan@contoso.example"]),
    ):
        address = f"{word}@contoso.example"
        world.mailboxes[address] = SharedMailbox(fixed_id(address), CONTOSO, address, name, list(members))


def _app(world: World, client_id: str, name: str, secret: tuple[str, str] | None, **more: object) -> App:
    app = App(client_id=client_id, object_id=fixed_id(client_id), tenant=CONTOSO, name=name, **more)  # type: ignore[arg-type]
    if secret is not None:
        now = world.now()
        app.secrets.append(Secret(secret[0], secret[1], "Sandbox", now - 30 * DAY, now + 700 * DAY))
    world.apps[client_id] = app
    consents.install(world, app, app.tenant)
    return app


def _plant_apps(world: World) -> None:
    portal = world.portal_url
    callbacks = [f"{portal}/auth/complete/microsoft-connect/", f"{portal}/consent/callback/"]
    mail = ["Mail.Read", "Mail.ReadWrite", "Mail.Send", "Mail.Read.Shared", "Mail.ReadWrite.Shared", "Mail.Send.Shared"]
    calendars = ["Calendars.Read", "Calendars.ReadWrite", "Calendars.Read.Shared", "Calendars.ReadWrite.Shared"]
    more = [*calendars, "MailboxSettings.Read", "Files.Read"]
    delegated = ["openid", "profile", "email", "offline_access", "User.Read", "User.ReadBasic.All", *mail, *more]
    _app(
        world,
        CONNECTIONS_APP,
        "Contoso Connections",
        (CONNECTIONS_SECRET_ID, CONNECTIONS_SECRET),
        redirect_uris=callbacks,
        delegated=delegated,
        application=["Mail.Read", "User.Read.All", "Application.Read.All"],
    )
    robots = _app(
        world,
        ROBOTS_APP,
        "Contoso Robots",
        (ROBOTS_SECRET_ID, ROBOTS_SECRET),
        redirect_uris=callbacks[1:],
        application=["Mail.Read", "Mail.Send", "User.Read.All", "Application.Read.All"],
    )
    consents.grant_roles(world, robots, CONTOSO, ["Mail.Read", "User.Read.All", "Application.Read.All"])
    _app(
        world,
        MULTI_APP,
        "Contoso Multi",
        (MULTI_SECRET_ID, MULTI_SECRET),
        audience=MULTI_TENANT,
        redirect_uris=callbacks,
        delegated=delegated,
        application=["Mail.Read", "User.Read.All"],
    )
    sign_in = _app(
        world,
        SIGN_IN_APP,
        "Portal sign-in",
        (SIGN_IN_SECRET_ID, SIGN_IN_SECRET),
        redirect_uris=[f"{portal}/auth/complete/microsoft/"],
        delegated=["openid", "profile", "email", "offline_access", "User.Read"],
    )
    sign_in.app_roles = {fixed_id("admin@contoso.example"): ["ITAdmin"], fixed_id("grace@contoso.example"): ["Auditor"]}
    consents.grant(world, sign_in, CONTOSO, EVERYBODY, list(sign_in.delegated))
    archive = _app(
        world,
        ARCHIVE_APP,
        "Contoso Archive (secret expired)",
        (ARCHIVE_SECRET_ID, ARCHIVE_SECRET),
        redirect_uris=callbacks,
        delegated=delegated,
        application=["Mail.Read"],
    )
    archive.secrets[0].starts_at = world.now() - 400 * DAY
    archive.secrets[0].expires_at = world.now() - 35 * DAY
    _app(
        world,
        DESKTOP_APP,
        "Contoso Desktop (public client)",
        None,
        platform="public",
        redirect_uris=["http://localhost"],
        delegated=["openid", "profile", "offline_access", "User.Read", "Mail.Read"],
    )
