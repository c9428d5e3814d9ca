"""Control commands for the sandbox as a whole, and for faults, people and mailboxes."""

import time
import uuid
from typing import Any

from portal.sandbox import control_commands, fault_injection, federation, request_log, seed
from portal.sandbox.adminconsent import LIES
from portal.sandbox.state import Person, SharedMailbox, world


@control_commands.verb
def reset() -> dict[str, Any]:
    """Restore the initial people, apps, consents and mailboxes; reset the clock, faults and call log. The keys stay."""
    here = world()
    with here.change():
        seed.plant(here)
    fault_injection.faults.set(fault_injection.Fault("normal"))
    request_log.log.clear()
    federation.forget_keys()
    return {}


@control_commands.verb
def clear_calls() -> dict[str, Any]:
    """Clear the call log and its counters."""
    request_log.log.clear()
    return {}


@control_commands.verb
def clock(offset_s: float) -> dict[str, Any]:
    """Set the sandbox's clock to real time plus ``offset_s`` seconds."""
    here = world()
    with here.change():
        here.clock_offset = offset_s
    return {"now": here.now()}


@control_commands.verb
def token_lifetime(seconds: int) -> dict[str, Any]:
    """Give access tokens a lifetime of exactly ``seconds``; 0 means random, between 60 and 90 minutes."""
    if seconds < 0:
        raise control_commands.Refused("seconds must not be negative.")
    here = world()
    with here.change():
        here.token_lifetime = seconds
    return {}


@control_commands.verb
def rotate_keys() -> dict[str, Any]:
    """Generate new keys: all tokens issued before become invalid, and the published key set changes."""
    here = world()
    with here.change():
        here.make_keys()
    return {"kid": here.kid}


@control_commands.verb
def weather_(
    kind: str,
    where: str = "everything",
    seconds: float = 0,
    retry_after: str = "5",
    delay_ms: int = 0,
    times: int = 0,
    client_id: str = "",
) -> dict[str, Any]:
    """Inject a fault into ``where`` (token, graph, batch, login or everything).

    It lasts for ``seconds`` or for ``times`` responses, or until ``normal`` is set. ``retry_after`` is a number, a
    decimal number, ``date`` or ``missing``; ``client_id`` limits the fault to token requests of one app.
    """
    control_commands.one_of(kind, fault_injection.KINDS, "kind")
    control_commands.one_of(where, fault_injection.PLACES, "where")
    if where == "batch" and kind not in ("throttle", "normal"):
        raise control_commands.Refused("For batch, only throttle and normal are supported.")
    if not fault_injection.valid_retry_after(retry_after):
        raise control_commands.Refused("retry_after must be a number of seconds, 'date' or 'missing'.")
    if seconds < 0 or delay_ms < 0 or times < 0:
        raise control_commands.Refused("seconds, delay_ms and times must not be negative.")
    until = time.monotonic() + seconds if seconds else 0.0
    fault_injection.faults.set(fault_injection.Fault(kind, where, retry_after, delay_ms, times, until, client_id))
    return {"weather": fault_injection.faults.report()}


@control_commands.verb
def consent_lie(kind: str) -> dict[str, Any]:
    """Make the admin consent callback misleading. ``kind`` is none, nothing, later or wrong_tenant."""
    control_commands.one_of(kind, LIES, "kind")
    here = world()
    with here.change():
        here.consent_lie = kind
    return {}


@control_commands.verb
def set_directory(tenant: str, user_consent: bool) -> dict[str, Any]:
    """Set whether people in a directory may consent for themselves."""
    directory = control_commands.directory_called(tenant)
    with world().change():
        directory.user_consent = user_consent
    return {}


@control_commands.verb
def add_person(
    upn: str, name: str, tenant: str = "", password: str = "", admin: bool = False, licensed: bool = True
) -> dict[str, Any]:
    """Add a person.

    Without ``tenant``, the domain of the user name determines the directory. Returns id and password.
    """
    here = world()
    directory = control_commands.directory_called(tenant or upn.partition("@")[2])
    if here.person_called(upn, directory.id) is not None:
        raise control_commands.Refused(f"The person {upn!r} already exists.")
    password = password or f"sandbox-{name.split()[0].lower()}"
    person = Person(
        id=str(uuid.uuid4()),
        tenant=directory.id,
        upn=upn,
        mail=upn,
        name=name,
        password=password,
        admin=admin,
        licensed=licensed,
    )
    with here.change():
        here.people[person.id] = person
    return {"id": person.id, "upn": upn, "password": password, "tenant": directory.id}


@control_commands.verb
def set_person(
    upn: str,
    disabled: bool | None = None,
    deleted: bool | None = None,
    mfa_required: bool | None = None,
    password_expired: bool | None = None,
    ca_blocked: bool | None = None,
    sign_in_frequency_s: int | None = None,
    admin: bool | None = None,
    licensed: bool | None = None,
    password: str | None = None,
    new_upn: str | None = None,
) -> dict[str, Any]:
    """Change the given properties of a person; ``sign_in_frequency_s`` 0 means no such policy."""
    person = control_commands.person_called(upn)
    given = {
        "disabled": disabled,
        "deleted": deleted,
        "mfa_required": mfa_required,
        "password_expired": password_expired,
        "ca_blocked": ca_blocked,
        "sign_in_frequency_s": sign_in_frequency_s,
        "admin": admin,
        "licensed": licensed,
        "password": password,
        "upn": new_upn,
        "mail": new_upn,
    }
    with world().change():
        for name, value in given.items():
            if value is not None:
                setattr(person, name, value)
    return {}


@control_commands.verb
def revoke_sessions(upn: str) -> dict[str, Any]:
    """End all sessions and refresh tokens of a person, as an admin's revokeSignInSessions does."""
    person = control_commands.person_called(upn)
    here = world()
    with here.change():
        person.tokens_valid_from = here.now()
    return {"tokens_valid_from": person.tokens_valid_from}


@control_commands.verb
def share_calendar(address: str, members: list[str]) -> dict[str, Any]:
    """Share the calendar of a person or a shared mailbox with these people, and with nobody else."""
    here, address = world(), address.lower()
    owner = here.mailboxes.get(address) or control_commands.person_called(address)
    for member in members:
        control_commands.person_called(member)
    with here.change():
        owner.calendar_members = members
    return {}


@control_commands.verb
def set_mailbox(
    address: str,
    members: list[str] | None = None,
    app_scope: list[str] | None = None,
    all_apps: bool = False,
    name: str | None = None,
    deleted: bool = False,
    inbox_members: list[str] | None = None,
    senders: list[str] | None = None,
    all_senders: bool = False,
) -> dict[str, Any]:
    """Change a shared mailbox, or create it if it does not exist.

    ``members`` are user names with Full Access, ``app_scope`` the client ids that may reach it without a person.
    ``inbox_members`` see only the inbox folder. ``senders`` have Send As; with ``all_senders`` true, every member has.
    ``all_apps`` true lets every app with the role reach it again; ``deleted`` true removes it.
    """
    here, address = world(), address.lower()
    for allowed in [*(members or []), *(inbox_members or []), *(senders or [])]:
        control_commands.person_called(allowed)
    with here.change():
        if address not in here.mailboxes:
            directory = control_commands.directory_called(address.partition("@")[2])
            label = name or address.partition("@")[0].title()
            here.mailboxes[address] = SharedMailbox(str(uuid.uuid4()), directory.id, address, label)
        mailbox = here.mailboxes[address]
        mailbox.name = mailbox.name if name is None else name
        mailbox.members = mailbox.members if members is None else members
        mailbox.inbox_members = mailbox.inbox_members if inbox_members is None else inbox_members
        mailbox.senders = None if all_senders else mailbox.senders if senders is None else senders
        mailbox.app_scope = None if all_apps else mailbox.app_scope if app_scope is None else app_scope
        if deleted:
            del here.mailboxes[address]
    return {}
