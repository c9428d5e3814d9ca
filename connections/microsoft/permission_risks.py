"""The risks of granting permissions, as sentences for admins. The names imply them (Graph, permissions-overview)."""

from collections.abc import Iterable

from connections.microsoft import resources


def describe_risks(names: Iterable[str], *, app_only: bool, app: str) -> list[str]:
    """Return the risks of granting these permissions, the broadest first. ``app`` is the application's name."""
    permissions = list(names)
    risks = [
        f"{app} gets these permissions without a signed-in person, for all mailboxes and files in the directory. "
        "An administrator can limit this."
        if app_only
        else f"Consent applies to everyone in the directory. {app} can then act as each person who signs in, without "
        "asking again."
    ]
    changes = ("write", "fullcontrol", "manage", "user_impersonation", "accessas", "full_access")
    if any(word in name.lower() for name in permissions for word in changes):
        risks.append("It can change and delete data.")
    if any(".Send" in name for name in permissions):
        risks.append("It can send as any user." if app_only else "It can send as the signed-in person.")
    if not app_only and any(name.endswith(".All") for name in permissions):
        risks.append("Some permissions go beyond the person's own data, to everything they have access to.")
    others = dict.fromkeys(map(resources.of, permissions))
    if named := [resources.label(key) for key in others if key != resources.GRAPH]:
        risks.append(f"Some permissions are for other services than Microsoft Graph: {', '.join(named)}.")
    if any(resources.short(name) == resources.DEFAULT for name in permissions):
        risks.append("In these services, its roles there decide what it can do, which may include changing data.")
    if not app_only and any(name.endswith("/user_impersonation") for name in permissions):
        risks.append("In these services, it can do everything that the person can do.")
    if not app_only and any(name.endswith(".Shared") for name in permissions):
        risks.append("Some permissions include data that colleagues have shared with the person.")
    return risks
