"""Which part of the documentation explains which page. tests/test_help_links.py knows every page."""

# Targets (a page of docs/ and a heading's id), each with the names of the URLs that it explains.
_PAGES = {
    "admin#incidents-and-expirations": "incidents incident expiries",
    "admin#people-and-teams": "people person person_disable access_matrix teams team team_add team_edit team_remove",
    "admin#service-accounts": """service_accounts service_account service_account_add service_account_edit
        service_account_key_add service_account_remove""",
    "admin#tenants-and-app-registrations": """tenants tenant tenant_add tenant_edit tenant_remove apps app app_edit
        app_remove""",
    "alerts#channels": "alert_channels alert_channel alert_channel_add alert_channel_edit alert_channel_remove",
    "alerts#delivery": "alerts",
    "alerts#recipients": "account_alerts notifications",
    "api#keys": "api_keys api_key api_key_add api_key_revoke",
    "api#references": """references reference reference_add reference_edit reference_point reference_remove""",
    "api#replacing-a-key-without-downtime": "api_key_rotate",
    "audit": "audit",
    "audit#verifying": "audit_verification audit_seals",
    "audit#what-is-recorded": "audit_event",
    "auditor": """access_history audit_questions audit_creators audit_fetches audit_changes audit_scopes""",
    "first-connection": "app_add app_script",
    "member": "home search",
    "member#changing-the-owner": "connection_hand_over",
    "member#connections": """connections connection connection_edit connection_remove connect connect_service
        connect_new_app""",
    "member#shared-mailboxes": """mailboxes mailbox mailbox_add mailbox_edit mailbox_remove mailbox_attach
        mailbox_powershell mailbox_send""",
    "member#sharing": "share_add",
    "member#your-account": "account security sessions change_password second_factor_add_app second_factor_add_passkey",
    "operating#credentials-of-app-registrations-and-their-expiration": "credential_add credential_retire",
    "operating#many-connections-at-once": "bulk_actions bulk_action",
    "operating#one-app-registration-for-many-tenants": "app_consents",
    "operating#requests-and-reviews": """requests consent_request consent_request_add consent_start reviews
        review review_add review_cancel review_report""",
    "operating#sessions-second-factors-and-repeated-sign-ins": "confirm_identity",
    "operating#when-people-leave": "person_hand_over",
    "policy": "policy policy_app",
    "policy#approvals": "approval approval_ask",
    "policy#changes-that-need-a-second-person": "change_request share_emergency",
    "policy#what-exists-already": "policy_violations",
    "what-went-wrong": "microsoft_errors",
}
TARGETS = {name: target for target, names in _PAGES.items() for name in names.split()}


def target_of(url_name: str) -> tuple[str, str] | None:
    """Return the page of the documentation and the heading's id, which may be empty; None if there is none."""
    target = TARGETS.get(url_name)
    if target is None:
        return None
    page, _, heading = target.partition("#")
    return page, heading
