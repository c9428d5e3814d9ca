"""Keep account names up to date. The ID token that comes with a refresh contains the account's current name."""

from django.db import transaction

from connections import audit
from connections.microsoft import account_claims, token_endpoint
from connections.models import AppRegistration, Connection
from connections.models.audit import AuditAction
from connections.services.tokens.batch_results import DueConnection


def follow(app: AppRegistration, due: DueConnection, answer: token_endpoint.TokenSet) -> bool:
    """Store the account's current names from the ID token in ``answer``. Returns whether a name has changed.

    Ignores an ID token about another account. The token's signature is not checked, because it came straight from the
    token endpoint over TLS (OpenID Connect Core, 3.1.3.7), and the names are only displayed or sent as ``login_hint``.
    """
    if answer.id_token is None:
        return False
    claims = token_endpoint.unverified_claims(answer.id_token)
    account = account_claims.account_from_claims(claims)
    is_same = (account.tid, account.oid) == (due.account_tid, due.account_oid)
    if not account.oid or not is_same or str(claims.get("aud", "")).lower() != app.client_id:
        return False
    names = {"account_username": account.username, "account_name": account.name}
    if all(not name or name == getattr(due, column) for column, name in names.items()):
        return False
    with transaction.atomic():
        rows = Connection.objects.select_for_update(no_key=True)
        connection = rows.filter(pk=due.pk, account_tid=account.tid, account_oid=account.oid).first()
        if connection is None:
            return False
        values = {column: name for column, name in names.items() if name}
        changes = audit.changed_fields(connection, values)
        if changes:
            Connection.objects.filter(pk=connection.pk).update(**values)
            audit.record(AuditAction.CONNECTION_CHANGED, connection, actor=None, changes=changes)
    return bool(changes)
