"""Plan shared mailboxes, alert channels and the policy.

Each ``plan_…`` function appends its steps to the plan, and returns the steps that would remove what the file does not
mention. It raises WrongEntry if an entry cannot be used.
"""

import hmac
from functools import partial

from connections.models import AlertChannel, AppRegistration, SharedMailbox, Tenant
from connections.services.config.registry import find_app_registration, find_tenant
from connections.services.config.schema import ChannelEntry, Configuration, MailboxEntry, PolicyEntry, WrongEntry
from connections.services.config.steps import Plan, Step, StepContext, as_text, differences, removals
from connections.services.governance import policy
from connections.services.mailboxes import mailboxes
from connections.services.notifications import channels
from connections.services.policy import describe
from connections.services.policy.rules import Rules


def plan_mailboxes(plan: Plan, desired: Configuration) -> list[Step]:
    if desired.shared_mailboxes is None:
        return []
    rows = SharedMailbox.objects.select_related("tenant")
    unnamed = {(mailbox.tenant_id, mailbox.address.lower()): mailbox for mailbox in rows}
    for entry in desired.shared_mailboxes:
        with plan.problems.noted():
            tenant = find_tenant(desired, entry.tenant, entry.line)
            _plan_mailbox(plan, entry, unnamed.pop((tenant.pk, entry.address.lower()), None))
    return removals(
        "shared mailbox", unnamed.values(), lambda mailbox, context: mailboxes.remove(mailbox, actor=context.actor)
    )


def _plan_mailbox(plan: Plan, entry: MailboxEntry, existing: SharedMailbox | None) -> None:
    if existing is None:
        facts = {"tenant": entry.tenant, "display_name": entry.display_name}
        plan.add("shared mailbox", entry.address, facts, entry.line, partial(_register_mailbox, entry))
        return
    name = existing.display_name if entry.display_name is None else entry.display_name
    values = {"address": entry.address, "display_name": name}
    changes = differences({key: getattr(existing, key) for key in values}, values)

    def run(context: StepContext) -> None:
        mailboxes.change(existing, **values, actor=context.actor)

    plan.change("shared mailbox", existing.address, changes, entry.line, run)


def _register_mailbox(entry: MailboxEntry, context: StepContext) -> None:
    tenant = Tenant.objects.get(name=entry.tenant)
    mailboxes.register(tenant, address=entry.address, display_name=entry.display_name or "", actor=context.actor)


def plan_channels(plan: Plan, desired: Configuration) -> list[Step]:
    if desired.alert_channels is None:
        return []
    unnamed = {channel.name: channel for channel in AlertChannel.objects.all()}
    for entry in desired.alert_channels:
        existing = unnamed.pop(entry.name, None)
        with plan.problems.noted():
            if existing is None:
                _plan_new_channel(plan, entry)
            else:
                _plan_channel(plan, entry, existing)
    return removals(
        "alert channel", unnamed.values(), lambda channel, context: channels.remove(channel, actor=context.actor)
    )


def _plan_new_channel(plan: Plan, entry: ChannelEntry) -> None:
    if not entry.url:
        raise WrongEntry(
            f"The alert channel {entry.name} isn't in the portal, and the file contains no address for it.",
            action="Set url_file or url_env, or remove the channel.",
            line=entry.line,
        )
    plan.targets.append(entry)
    plan.add("alert channel", entry.name, {"kind": entry.kind}, entry.line, partial(_save_channel, None, entry))
    if entry.kind == AlertChannel.Kind.WEBHOOK:
        plan.notes.append(
            f"line {entry.line}: the signing secret of the webhook {entry.name} is never shown. Replace it on the "
            "channel's page and give the new one to the receiver."
        )


def _plan_channel(plan: Plan, entry: ChannelEntry, existing: AlertChannel) -> None:
    if entry.kind != existing.kind:
        raise WrongEntry(
            f"The alert channel {entry.name} is a {existing.kind}. You can't change its kind.",
            action="Use another name for the new channel.",
            line=entry.line,
        )
    changes = []
    if entry.url and not _has_url(existing, entry.url):
        plan.targets.append(entry)
        changes.append(("address", existing.host, "a different one"))
    is_on = existing.disabled_at is None
    if entry.enabled is not None and entry.enabled != is_on:
        changes.append(("enabled", as_text(is_on), as_text(entry.enabled)))
    plan.change("alert channel", entry.name, tuple(changes), entry.line, partial(_save_channel, existing, entry))


def _has_url(channel: AlertChannel, url: str) -> bool:
    return hmac.compare_digest((channel.url or "").encode(), url.encode())


def _save_channel(channel: AlertChannel | None, entry: ChannelEntry, context: StepContext) -> None:
    if channel is None:
        channel, _ = channels.add(name=entry.name, kind=entry.kind, url=entry.url, actor=context.actor)
    elif entry.url and not _has_url(channel, entry.url):
        channels.change(channel, name=entry.name, url=entry.url, actor=context.actor)
    if entry.enabled is False:
        channels.disable(channel, actor=context.actor, now=context.now)
    elif entry.enabled:
        channels.enable(channel, actor=context.actor)


def plan_policy(plan: Plan, desired: Configuration) -> list[Step]:
    if desired.policy is None:
        return []
    apps: dict[str, AppRegistration | None] = {app.name: app for app in AppRegistration.objects.all()}
    apps |= {entry.name: find_app_registration(desired, entry) for entry in desired.app_registrations or ()}
    for entry in desired.policy:
        with plan.problems.noted():
            _plan_rules(plan, entry, apps)
    named = {app.pk for entry in desired.policy if (app := apps.get(entry.app_registration)) is not None}
    unnamed = [app for app in AppRegistration.objects.exclude(policy=None) if app.pk not in named]
    return removals(
        "policy of app registration",
        [app for app in unnamed if policy.stored_policy(app).rules.restricts],
        lambda app, context: policy.change(app, Rules(), actor=context.actor, now=context.now),
    )


def _plan_rules(plan: Plan, entry: PolicyEntry, apps: dict[str, AppRegistration | None]) -> None:
    name = entry.app_registration
    if name and name not in apps:
        raise WrongEntry(f"The app registration “{name}” is neither in the file nor in the portal.", line=entry.line)
    app = apps[name] if name else None
    before = Rules() if name and app is None else policy.stored_policy(app).rules
    changes = tuple(
        (what, as_text(old), as_text(new)) for what, (old, new) in describe.differences(before, entry.rules).items()
    )
    owner = f"of app registration {name}" if name else "of the organisation"
    plan.change("policy", owner, changes, entry.line, partial(_save_rules, entry))


def _save_rules(entry: PolicyEntry, context: StepContext) -> None:
    app = AppRegistration.objects.get(name=entry.app_registration) if entry.app_registration else None
    policy.change(app, entry.rules, actor=context.actor, now=context.now)
