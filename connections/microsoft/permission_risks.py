"""What granting permissions means, in sentences for admins. The names' endings say it (Graph, permissions-overview)."""

from collections.abc import Iterable


def describe_risks(names: Iterable[str], *, app_only: bool, app: str) -> list[str]:
    """Describe the risks of granting these permissions, broadest first. ``app`` is the application's name."""
    permissions = list(names)
    risks = [
        f"{app} gets these permissions without any person: in everybody's mailboxes and files of the directory, unless "
        "an administrator narrows it."
        if app_only
        else f"Consent counts for everybody in the directory: {app} can then do this in the name of each person who signs "
        "in to it, and nobody is asked again."
    ]
    if any("Write" in name or "FullControl" in name or "Manage" in name for name in permissions):
        risks.append("It can change and delete data, not only read it.")
    if any(".Send" in name for name in permissions):
        risks.append("It can send in other people's names." if app_only else "It can send in the person's name.")
    if not app_only and any(name.endswith(".All") for name in permissions):
        risks.append("Some of it reaches beyond the person's own data: everything of its kind that they may open.")
    if not app_only and any(name.endswith(".Shared") for name in permissions):
        risks.append("Some of it reaches into what colleagues have shared with the person.")
    return risks
