"""Directory objects and files in Graph: users, organization, applications, teams, sites, drives."""

import hashlib
import re
import uuid
from datetime import UTC, datetime
from typing import Any

from portal.sandbox import permissions
from portal.sandbox.graph_errors import Caller, GraphError, insufficient, missing
from portal.sandbox.state import App, Person, SharedMailbox, World

Answer = tuple[int, dict[str, Any] | None]
Words = dict[str, str]

READ_USERS = {"User.Read.All", "User.ReadBasic.All", "User.ReadWrite.All", "Directory.Read.All"}


def _time(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def selected(content: dict[str, Any], query: Words) -> dict[str, Any]:
    """Return only the properties in ``$select``; all of them without it."""
    wanted = [name.strip() for name in query.get("$select", "").split(",") if name.strip()]
    return {name: content[name] for name in wanted if name in content} if wanted else content


def top(items: list[dict[str, Any]], query: Words) -> list[dict[str, Any]]:
    """Return the first ``$top`` items after ``$skip``. Raises GraphError unless both are numbers."""
    try:
        count, skip = int(query.get("$top", "10")), int(query.get("$skip", "0"))
    except ValueError:
        raise GraphError(400, "BadRequest", "Invalid value for $top or $skip.") from None
    return items[skip : skip + count]


def find(here: World, caller: Caller, words: Words) -> Person | SharedMailbox | None:
    """Return the user or shared mailbox in the path, from the caller's directory; None if there is none.

    Raises GraphError for ``/me`` without a signed-in person.
    """
    if words.get("me"):
        if caller.person is None:
            text = "/me request is only valid with delegated authentication flow."
            raise GraphError(400, "BadRequest", text)
        return caller.person
    name = words["user"].lower()
    for mailbox in list(here.mailboxes.values()):
        if mailbox.tenant == caller.tenant and name in (mailbox.address, mailbox.id):
            return mailbox
    return here.person_called(name, caller.tenant)


def _as_user(owner: Person | SharedMailbox) -> dict[str, Any]:
    if isinstance(owner, SharedMailbox):
        name, upn, mail, job, enabled = owner.name, owner.address, owner.address, None, False
    else:
        name, upn, mail, job, enabled = owner.name, owner.upn, owner.mail, owner.job_title or None, not owner.disabled
    first, _, last = name.partition(" ")
    return {
        "id": owner.id,
        "displayName": name,
        "givenName": first,
        "surname": last or None,
        "jobTitle": job,
        "mail": mail,
        "userPrincipalName": upn,
        "accountEnabled": enabled,
        "userType": "Guest" if isinstance(owner, Person) and owner.guest else "Member",
        "assignedPlans": _plans(owner),
        "proxyAddresses": [f"SMTP:{mail}"] if mail else [],
        "businessPhones": [],
        "mobilePhone": None,
        "officeLocation": None,
        "preferredLanguage": "en-US",
    }


def _plans(owner: Person | SharedMailbox) -> list[dict[str, str]]:
    """Return the licence plans. Shared mailboxes work without a licence and have no plans here."""
    if isinstance(owner, SharedMailbox) or not owner.licensed:
        return []
    plan = "9aaf7827-d63c-4b61-89c3-182f06f82e5c"  # Exchange Online (Plan 1)
    return [{"service": "exchange", "capabilityStatus": "Enabled", "servicePlanId": plan}]


# The only supported filter for an address, which may be any of an account's three names.
BY_ADDRESS = re.compile(
    r"userPrincipalName eq '(?P<address>(?:[^']|'')+)' or mail eq '(?P=address)'"
    r" or proxyAddresses/any\(p:p eq 'smtp:(?P=address)'\)"
)


# The filter for several people by their object IDs. Graph accepts at most 15 values in such a list.
BY_ID = re.compile(r"id in \((?P<ids>'[^']*'(?:\s*,\s*'[^']*')*)\)")
MOST_IDS = 15


def _filtered(everybody: list[Person | SharedMailbox], condition: str) -> list[Person | SharedMailbox]:
    if not condition:
        return everybody
    by_id = BY_ID.fullmatch(condition.strip())
    if by_id is not None:
        ids = [part.strip().strip("'").lower() for part in by_id["ids"].split(",")]
        if len(ids) > MOST_IDS:
            raise GraphError(400, "BadRequest", f"Too many child clauses specified in search filter: {len(ids)}.")
        return [person for person in everybody if person.id in ids]
    match = BY_ADDRESS.fullmatch(condition.strip())
    if match is None:
        raise GraphError(400, "Request_UnsupportedQuery", "Unsupported or invalid query filter clause.")
    wanted = match["address"].replace("''", "'").lower()
    return [
        person
        for person in everybody
        if wanted
        in ((person.address,) if isinstance(person, SharedMailbox) else (person.upn.lower(), person.mail.lower()))
    ]


def user(here: World, caller: Caller, words: Words, query: Words, sent: Any) -> Answer:
    """GET /me and /users/{ID or name}."""
    owner = find(here, caller, words)
    own = caller.person is not None and owner is not None and owner.id == caller.person.id
    enough = READ_USERS | ({"User.Read", "User.ReadWrite"} if own else set())
    if not caller.permissions & enough:
        raise insufficient()
    if owner is None:
        raise missing(words["user"])
    context = {"@odata.context": f"{here.public_url}/v1.0/$metadata#users/$entity"}
    return 200, context | selected(_as_user(owner), query)


def users(here: World, caller: Caller, words: Words, query: Words, sent: Any) -> Answer:
    if not caller.permissions & READ_USERS:
        raise insufficient()
    everybody: list[Person | SharedMailbox] = [
        person for person in list(here.people.values()) if person.tenant == caller.tenant and not person.deleted
    ]
    everybody += [shared for shared in list(here.mailboxes.values()) if shared.tenant == caller.tenant]
    matches = _filtered(everybody, query.get("$filter", ""))
    items = [selected(_as_user(match), query) for match in matches]
    query = {"$top": "100", **query}
    return 200, {"@odata.context": f"{here.public_url}/v1.0/$metadata#users", "value": top(items, query)}


def organization(here: World, caller: Caller, words: Words, query: Words, sent: Any) -> Answer:
    if not caller.permissions & {"Organization.Read.All", "Directory.Read.All", "User.Read"}:
        raise insufficient()
    directory = here.directories[caller.tenant]
    domain = {"name": directory.domain, "isDefault": True, "isInitial": False, "type": "Managed"}
    content = {"id": directory.id, "displayName": directory.name, "verifiedDomains": [domain], "tenantType": "AAD"}
    return 200, {"value": [selected(content, query)]}


def _as_application(app: App) -> dict[str, Any]:
    return {
        "id": app.object_id,
        "appId": app.client_id,
        "displayName": app.name,
        "signInAudience": app.audience,
        "passwordCredentials": [
            {
                "customKeyIdentifier": None,
                "displayName": secret.name,
                "endDateTime": _time(secret.expires_at),
                "hint": secret.value[:3],
                "keyId": secret.id,
                "secretText": None,
                "startDateTime": _time(secret.starts_at),
            }
            for secret in app.secrets
        ],
        "keyCredentials": [
            {
                "customKeyIdentifier": certificate.sha1.upper(),
                "displayName": certificate.name,
                "endDateTime": _time(certificate.expires_at),
                "key": None,
                "keyId": certificate.id,
                "startDateTime": _time(certificate.starts_at),
                "type": "AsymmetricX509Cert",
                "usage": "Verify",
            }
            for certificate in app.certificates
        ],
        "requiredResourceAccess": _required_access(app),
        "web": {"redirectUris": app.redirect_uris if app.platform == "web" else []},
        "spa": {"redirectUris": app.redirect_uris if app.platform == "spa" else []},
        "publicClient": {"redirectUris": app.redirect_uris if app.platform == "public" else []},
    }


def _required_access(app: App) -> list[dict[str, Any]]:
    access: dict[str, list[dict[str, str]]] = {}
    for kind, names in (("Scope", app.delegated), ("Role", app.application)):
        for name in names:
            permission = permissions.CATALOGUE[name]
            guid = permission.delegated_id if kind == "Scope" else permission.application_id
            resource = permissions.RESOURCES[permissions.resource_of(name)]
            access.setdefault(resource.declared_under(kind), []).append({"id": guid, "type": kind})
    return [{"resourceAppId": app_id, "resourceAccess": entries} for app_id, entries in access.items()]


def _own_applications(here: World, caller: Caller) -> list[App]:
    """Return the app registrations in the caller's directory, because they only exist in their home directory.

    With Application.ReadWrite.OwnedBy, these are only those that the caller owns. Raises GraphError without a
    permission.
    """
    apps = [app for app in list(here.apps.values()) if app.tenant == caller.tenant and not app.deleted]
    if caller.permissions & {"Application.Read.All", "Application.ReadWrite.All", "Directory.Read.All"}:
        return apps
    if "Application.ReadWrite.OwnedBy" in caller.permissions:
        return [app for app in apps if caller.app.client_id in app.owners]
    raise insufficient()


def application(here: World, caller: Caller, words: Words, query: Words, sent: Any) -> Answer:
    """GET /applications(appId='…') and /applications/{object ID}."""
    wanted = words["app_id"].lower() or words["object_id"].lower()
    for app in _own_applications(here, caller):
        if wanted == (app.client_id if words["app_id"] else app.object_id):
            return 200, selected(_as_application(app), query)
    raise missing(wanted)


def applications(here: World, caller: Caller, words: Words, query: Words, sent: Any) -> Answer:
    """GET /applications, with ``$filter=appId eq '…'``."""
    apps = _own_applications(here, caller)
    condition = query.get("$filter", "")
    if condition:
        name, _, value = condition.partition(" eq ")
        if name.strip() != "appId":
            raise GraphError(400, "Request_UnsupportedQuery", "Unsupported or invalid query filter clause.")
        apps = [app for app in apps if app.client_id == value.strip().strip("'").lower()]
    return 200, {"value": [selected(_as_application(app), query) for app in apps]}


def revoke_sessions(here: World, caller: Caller, words: Words, query: Words, sent: Any) -> Answer:
    """POST /users/{id}/revokeSignInSessions: revoke the person's refresh tokens in every app."""
    if "User.RevokeSessions.All" not in caller.permissions:
        raise insufficient()
    person = find(here, caller, words)
    if not isinstance(person, Person):
        raise missing(words["user"])
    with here.change():
        person.tokens_valid_from = here.now()
    return 200, {"@odata.context": f"{here.public_url}/v1.0/$metadata#Edm.Boolean", "value": True}


def joined_teams(here: World, caller: Caller, words: Words, query: Words, sent: Any) -> Answer:
    if caller.person is None or not caller.permissions & {"Team.ReadBasic.All", "Directory.Read.All"}:
        raise GraphError(403, "Forbidden", "Missing scope permissions on the request.")
    name = here.directories[caller.tenant].name
    team = {"id": str(uuid.uuid5(uuid.NAMESPACE_URL, name)), "displayName": f"{name} operations", "description": ""}
    return 200, {"value": [team]}


def _files_allowed(caller: Caller, words: Words) -> None:
    enough = {"Files.Read.All", "Files.ReadWrite.All", "Sites.Read.All", "Sites.ReadWrite.All"}
    if words.get("me"):
        enough |= {"Files.Read", "Files.ReadWrite"}
    if not caller.permissions & enough:
        raise GraphError(403, "accessDenied", "Access denied")


def drive(here: World, caller: Caller, words: Words, query: Words, sent: Any) -> Answer:
    person = find(here, caller, words)
    _files_allowed(caller, words)
    if not isinstance(person, Person) or not person.licensed:
        raise GraphError(404, "ResourceNotFound", "User's mysite not found.")
    identity = hashlib.sha256(person.id.encode()).hexdigest()[:32]
    owner = {"user": {"id": person.id, "displayName": person.name}}
    quota = {"deleted": 0, "remaining": 1099211000000, "state": "normal", "total": 1099511627776, "used": 300627776}
    return 200, {"id": f"b!{identity}", "name": "OneDrive", "driveType": "business", "owner": owner, "quota": quota}


def drive_children(here: World, caller: Caller, words: Words, query: Words, sent: Any) -> Answer:
    drive(here, caller, words, query, sent)
    names = ("Invoices 2026.xlsx", "Meeting notes.docx", "Travel policy.pdf")
    items = [{"id": f"01SANDBOX{i}", "name": name, "size": 20480 * (i + 1)} for i, name in enumerate(names)]
    return 200, {"value": [selected(item, query) for item in top(items, query)]}


def root_site(here: World, caller: Caller, words: Words, query: Words, sent: Any) -> Answer:
    if not caller.permissions & {"Sites.Read.All", "Sites.ReadWrite.All"}:
        raise GraphError(403, "accessDenied", "Access denied")
    directory = here.directories[caller.tenant]
    host = f"{directory.domain.partition('.')[0]}.sharepoint.example"
    return 200, {"id": f"{host},{directory.id}", "displayName": directory.name, "webUrl": f"https://{host}"}
