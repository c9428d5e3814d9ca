"""The sign-in, shared by the authorize and admin consent endpoints.

A sign-in takes several pages. Its progress is in a signed form field, so that an unfinished sign-in leaves nothing
behind. The people who are signed in are in a signed cookie.
"""

import secrets
from dataclasses import asdict, dataclass

from django.core import signing
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from portal.sandbox import errors
from portal.sandbox.state import CONSUMERS, App, Directory, Person, World

COOKIE = "sandbox_session"
SESSION_LIFETIME = 14 * 86400
FLOW_LIFETIME = 3600


@dataclass
class Flow:
    person: str = ""
    authenticated_at: float = 0.0  # 0 means that no password has been entered yet
    mfa: bool = False


@dataclass
class Wanted:
    """The requirements of a page that needs a signed-in person."""

    app: App
    where: Directory | None  # None means any directory
    authority: str
    prompt: str = ""
    login_hint: str = ""
    max_age: int | None = None  # seconds
    title: str = "Sign in"
    cancel: bool = True


class NeedsPage(Exception):
    """The sign-in is not complete, and this page must be shown first."""

    def __init__(self, response: HttpResponse) -> None:
        super().__init__("a page has to be shown first")
        self.response = response


def accounts(request: HttpRequest, world: World) -> list[Flow]:
    """Return the people with a valid session in this browser."""
    try:
        stored = signing.loads(
            request.COOKIES.get(COOKIE, ""), key=world.cookie_key, salt="session", max_age=SESSION_LIFETIME
        )
    except signing.BadSignature:
        return []
    flows = [Flow(**values) for values in stored]
    return [flow for flow in flows if _session_holds(world, flow)]


def _session_holds(world: World, session: Flow) -> bool:
    person = world.people.get(session.person)
    if person is None or person.deleted or session.authenticated_at < person.tokens_valid_from:
        return False
    limit = person.sign_in_frequency_s
    return not limit or world.now() - session.authenticated_at <= limit


def remember(request: HttpRequest, response: HttpResponse, world: World, flow: Flow) -> None:
    """Store a complete sign-in as a session of this browser."""
    others = [account for account in accounts(request, world) if account.person != flow.person]
    keep = Flow(flow.person, flow.authenticated_at, flow.mfa)
    value = signing.dumps([asdict(flow) for flow in [*others, keep]], key=world.cookie_key, salt="session")
    response.set_cookie(COOKIE, value, max_age=SESSION_LIFETIME, httponly=True, samesite="Lax")


def forget(response: HttpResponse) -> None:
    """End all sessions of this browser."""
    response.delete_cookie(COOKIE)


def seal(world: World, flow: Flow) -> str:
    """Return the signed form field for this progress."""
    return signing.dumps(asdict(flow), key=world.cookie_key, salt="flow")


def unseal(world: World, note: str) -> Flow:
    """Return the progress from a form field; an empty flow if the field has expired or is forged."""
    try:
        return Flow(**signing.loads(note, key=world.cookie_key, salt="flow", max_age=FLOW_LIFETIME))
    except signing.BadSignature:
        return Flow()


def person_for(request: HttpRequest, world: World, wanted: Wanted) -> tuple[Person, Flow]:
    """Return the signed-in person and the sign-in's progress.

    Raises NeedsPage with the next page, or EntraError if this person may not sign in.
    """
    step = request.POST.get("step", "") if request.method == "POST" else ""
    flow = unseal(world, request.POST.get("flow", "")) if step else _from_session(request, world, wanted)
    if step == "account":
        flow = _chosen(request, world, wanted)
    elif step == "password":
        flow = _with_password(request, world, wanted)
    elif step == "mfa" and flow.authenticated_at:
        flow.mfa = True
    if not flow.person:
        raise NeedsPage(_first_page(request, world, wanted))
    person = world.people[flow.person]
    if not flow.authenticated_at:
        raise NeedsPage(password_page(request, world, wanted, person.mail or person.upn))
    _check(world, wanted, person)
    if person.mfa_required and not flow.mfa:
        if wanted.prompt == "none":
            raise errors.refusal(50076, error="interaction_required")
        raise NeedsPage(_page(request, world, wanted, "mfa", flow, person=person))
    return person, flow


def _usable(request: HttpRequest, world: World, wanted: Wanted) -> list[Flow]:
    """Return this browser's sessions that fit the requested directory and are recent enough."""
    fitting = []
    for account in accounts(request, world):
        tenant = world.people[account.person].tenant
        is_recent = wanted.max_age is None or world.now() - account.authenticated_at < wanted.max_age
        if is_recent and (wanted.where is None or tenant == wanted.where.id):
            fitting.append(account)
    return fitting


def _from_session(request: HttpRequest, world: World, wanted: Wanted) -> Flow:
    usable = _usable(request, world, wanted)
    hint = wanted.login_hint.lower()
    if hint:
        usable = [session for session in usable if hint in _names(world.people[session.person])]
    if wanted.prompt == "none":
        if not usable:
            raise errors.refusal(50058)
        if len(usable) > 1:
            raise errors.refusal(16000)
        return usable[0]
    if wanted.prompt in ("login", "select_account") or len(usable) != 1:
        return Flow()
    return usable[0]


def _names(person: Person) -> tuple[str, str]:
    return person.upn.lower(), person.mail.lower()


def _chosen(request: HttpRequest, world: World, wanted: Wanted) -> Flow:
    chosen = request.POST.get("account", "")
    for account in _usable(request, world, wanted):
        if account.person == chosen and wanted.prompt != "login":
            return account
    person = world.people.get(chosen)
    if person is None or person.deleted:
        raise NeedsPage(password_page(request, world, wanted, ""))
    return Flow(person=person.id)


def _with_password(request: HttpRequest, world: World, wanted: Wanted) -> Flow:
    name, password = request.POST.get("login", ""), request.POST.get("password", "")
    tenant = wanted.where.id if wanted.where else None
    person = world.person_called(name, tenant) or world.person_called(name)
    if person is None:
        problem = "We couldn't find an account with that username."
        raise NeedsPage(password_page(request, world, wanted, name, problem))
    if not secrets.compare_digest(person.password.encode(), password.encode()):
        problem = "Your account or password is incorrect."
        raise NeedsPage(password_page(request, world, wanted, name, problem))
    return Flow(person=person.id, authenticated_at=world.now())


def _check(world: World, wanted: Wanted, person: Person) -> None:
    if person.disabled:
        raise errors.refusal(50057)
    if person.password_expired:
        raise errors.refusal(50055)
    if person.ca_blocked:
        raise errors.refusal(53003)
    personal_ok = wanted.app.audience in ("AzureADandPersonalMicrosoftAccount", "PersonalMicrosoftAccount")
    elsewhere = wanted.where is not None and person.tenant != wanted.where.id
    if elsewhere or (person.tenant == CONSUMERS and (not personal_ok or wanted.authority == "organizations")):
        raise errors.refusal(
            50020,
            upn=person.upn,
            issuer=f"{world.public_url}/{person.tenant}/",
            tenant_name=wanted.where.name if wanted.where else "Microsoft Services",
            client_id=wanted.app.client_id,
            app_name=wanted.app.name,
        )
    if wanted.app.assignment_required and person.id not in wanted.app.app_roles:
        raise errors.refusal(50105, error="access_denied", app_name=wanted.app.name, client_id=wanted.app.client_id)


def _first_page(request: HttpRequest, world: World, wanted: Wanted) -> HttpResponse:
    usable = [] if wanted.prompt == "login" or wanted.login_hint else _usable(request, world, wanted)
    if usable and request.POST.get("step") != "other":
        people = [world.people[session.person] for session in usable]
        return _page(request, world, wanted, "pick", Flow(), people=people)
    return password_page(request, world, wanted, wanted.login_hint)


def password_page(request: HttpRequest, world: World, wanted: Wanted, name: str, problem: str = "") -> HttpResponse:
    """Return the page for user name and password. It lists all passwords, because nothing in the sandbox is secret."""
    people = [
        person
        for person in world.people.values()
        if not person.deleted and (wanted.where is None or person.tenant == wanted.where.id)
    ]
    known = world.person_called(name, wanted.where.id if wanted.where else None) if name else None
    context = {"login": name, "known": known, "problem": problem, "people": people}
    return _page(request, world, wanted, "signin", Flow(), **context)


def _page(request: HttpRequest, world: World, wanted: Wanted, name: str, flow: Flow, **context: object) -> HttpResponse:
    context |= {"app": wanted.app, "where": wanted.where, "title": wanted.title, "flow": seal(world, flow)}
    context["cancel"] = wanted.cancel
    return render(request, f"sandbox/{name}.html", context)
