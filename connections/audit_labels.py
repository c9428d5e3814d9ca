"""Labels of audit actions and types of objects for pages."""

import re

# Labels of actions whose recorded name doesn't read well. The recorded names must not change.
_ACTION_VERBS = {
    "access_review.planned": "schedule changed",
    "account.admitted": "access allowed",
    "account.alerts_chosen": "notification settings changed",
    "account.back": "returned",
    "account.groups_left_out": "groups not included in sign-in",
    "api_key.issued": "created",
    "api_key.limited": "rate limit changed",
    "api_key.old_secret_ended": "old secret revoked",
    "app_registration.healed": "accepted again",
    "connection.checked": "tested",
    "connection.hand_over_completed": "ownership transfer completed",
    "connection.handed_over": "ownership transferred",
    "connection.healed": "resolved",
    "connection.mailbox_probed": "mailbox tested",
    "connection.reconnected": "signed in again",
    "connection.resource_connected": "resource available",
    "connection.resource_flagged": "resource unavailable",
    "connection.sign_in_link_made": "sign-in link created",
    "connection.tagged": "tags changed",
    "connection.token_fetched": "token requested",
    "connection.unshared": "access removed",
    "consent.granted": "reported",
    "consent.partial": "partly granted",
    "consent_request.asked": "requested",
    "credential.expiry_entered": "expiration date entered",
    "consent_request.granted": "reported",
    "credential.unlisted": "no longer listed in Entra",
    "delivery.tried_again": "retried",
    "incident.closed": "resolved",
    "reference.pointed": "connection changed",
    "tenant.looked_up": "verified",
}


def action_label(action: str) -> str:
    """Return the label of an audit action: "connection.reconnect_needed" → "Connection: reconnect needed"."""
    noun, _, verb = action.partition(".")
    verb = _ACTION_VERBS.get(action, verb.replace("_", " "))
    return f"{_sentence_case(noun.replace('_', ' '))}: {verb}" if verb else noun


def type_label(target_type: str) -> str:
    """Return the label of a type: "AppRegistration" → "App registration"."""
    return _sentence_case(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", target_type))


def _sentence_case(words: str) -> str:
    return re.sub(r"^Api\b", "API", words.capitalize())
