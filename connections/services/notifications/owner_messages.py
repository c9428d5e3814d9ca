"""Messages to the owner of a connection about what other people do with it. Nobody can switch alarms off."""

from datetime import datetime

from connections.access import querysets
from connections.models import AuditEvent, Connection, User
from connections.services.notifications import alerts


def tell_owner(
    connection: Connection,
    event: AuditEvent,
    what: str,
    *,
    actor: User | None,
    now: datetime,
    owner: User | None = None,
    facts: tuple[tuple[str, str], ...] = (),
    is_alarm: bool = True,
) -> None:
    """Email the owner about what someone else did, as recorded in ``event``. Call it in the transaction of the change.

    ``what`` completes a sentence that begins with the actor. After a transfer, the caller passes the previous
    ``owner``. The portal's own changes (``actor`` None) have their own alerts. If the connection belongs to a service
    account and nobody else is responsible for it, the other IT admins are emailed instead.
    """
    owner = owner or connection.owner
    person = owner.contact
    if actor is None or (actor == person and not owner.is_service):
        return
    if person is not None and person != actor and not person.is_suspended:
        people, why = [person], "you own this connection."
    elif owner.is_service and actor != owner:
        people = list(querysets.it_admins().exclude(pk=actor.pk).select_related("alert_choice"))
        why = "you are an IT admin, and nobody else is responsible for the service account that owns this connection."
    else:
        return
    message = alerts.Message(
        subject=f"{actor} {what}",
        paragraphs=(
            f"{actor} ({actor.username}) {what}.",
            "If you didn't expect this, remove the access on the connection's page and ask an IT admin.",
        ),
        path=f"/connections/{connection.pk}/",
        button="View connection",
        why=f"You received this email because {why}",
        facts=(("Connection", connection.name), *facts),
        tone="warning",
    )
    about = f"connection:{connection.pk}:event:{event.pk}"
    alerts.notify(people, message, about=about, now=now, is_alarm=is_alarm)
