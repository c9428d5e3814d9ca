"""What a configuration file wants of shared mailboxes, alert channels and the policy."""

from __future__ import annotations

import hmac
from functools import partial

from connections.models import AlertChannel, AppRegistration, SharedMailbox, Tenant
from connections.services.config.registry import find_app_registration, find_tenant
from connections.services.config.schema import ChannelEntry, Configuration, MailboxEntry, PolicyEntry, WrongEntry
from connections.services.config.steps import (
    Plan,
    Step,
    StepContext,
    Verb,
    as_text,
    describe_new,
    differences,
    removals,
)
from connections.services.governance import policy
from connections.services.mailboxes import mailboxes
from connections.services.notifications import channels
from connections.services.policy import describe
from connections.services.policy.rules import Rules


def plan_mailboxes(plan: Plan, wanted: Configuration) -> list[Step]:
    """Append what has to be done; returns what would remove those the file does not name. Raises WrongEntry."""
    if wanted.shared_mailboxes is None:
        return []
    left = {
        (mailbox.tenant_id, mailbox.address.lower()): mailbox
        for mailbox in SharedMailbox.objects.select_related("tenant")
    }
    for entry in wanted.shared_mailboxes:
        tenant = find_tenant(wanted, entry.tenant, entry.line)
        _mailbox(plan, entry, left.pop((tenant.pk, entry.address.lower()), None))
    return removals("shared mailbox", left.values(), lambda one, doing: mailboxes.remove(one, actor=doing.actor))


def _mailbox(plan: Plan, entry: MailboxEntry, existing: SharedMailbox | None) -> None:
    if existing is None:
        facts = describe_new({"tenant": entry.tenant, "display_name": entry.display_name})
        run = partial(_register_mailbox, entry)
        plan.do(Verb.ADD, "shared mailbox", entry.address, facts, entry.line, run)
        return
    name = existing.display_name if entry.display_name is None else entry.display_name
    values = {"address": mailboxes.normalize_address(entry.address), "display_name": name}
    if changes := differences({key: getattr(existing, key) for key in values}, values):
        plan.do(
            Verb.CHANGE,
            "shared mailbox",
            existing.address,
            changes,
            entry.line,
            lambda doing: mailboxes.change(existing, **values, actor=doing.actor),
        )


def _register_mailbox(entry: MailboxEntry, doing: StepContext) -> None:
    tenant = Tenant.objects.get(name=entry.tenant)
    mailboxes.register(tenant, address=entry.address, display_name=entry.display_name or "", actor=doing.actor)


def plan_channels(plan: Plan, wanted: Configuration) -> list[Step]:
    """Append what has to be done; returns what would remove those the file does not name. Raises WrongEntry."""
    if wanted.alert_channels is None:
        return []
    left = {channel.name: channel for channel in AlertChannel.objects.all()}
    for entry in wanted.alert_channels:
        existing = left.pop(entry.name, None)
        if existing is None:
            _new_channel(plan, entry)
        else:
            _channel(plan, entry, existing)
    return removals("alert channel", left.values(), lambda one, doing: channels.remove(one, actor=doing.actor))


def _new_channel(plan: Plan, entry: ChannelEntry) -> None:
    if not entry.url:
        raise WrongEntry(
            f"The alert channel {entry.name} is not in the portal, and the file does not say where its address is.",
            action="Name it with url_file or url_env, or take the channel out.",
            line=entry.line,
        )
    plan.targets.append(entry)
    plan.do(
        Verb.ADD,
        "alert channel",
        entry.name,
        describe_new({"kind": entry.kind}),
        entry.line,
        partial(_add_channel, entry),
    )
    if entry.kind == AlertChannel.Kind.WEBHOOK:
        plan.notes.append(
            f"line {entry.line}: nobody will have seen the signing secret of the webhook {entry.name}. Make another one "
            "on its page and give it to the receiver."
        )


def _channel(plan: Plan, entry: ChannelEntry, existing: AlertChannel) -> None:
    if entry.kind != existing.kind:
        raise WrongEntry(
            f"The alert channel {entry.name} is a {existing.kind}, and its kind cannot be changed.",
            action="Give the new one another name.",
            line=entry.line,
        )
    changes = []
    if entry.url and not _leads_to(existing, entry.url):
        plan.targets.append(entry)
        changes.append(("address", existing.host, "another one"))
    is_on = existing.disabled_at is None
    if entry.enabled is not None and entry.enabled != is_on:
        changes.append(("enabled", as_text(is_on), as_text(entry.enabled)))
    if changes:
        run = partial(_change_channel, existing, entry)
        plan.do(Verb.CHANGE, "alert channel", entry.name, tuple(changes), entry.line, run)


def _leads_to(channel: AlertChannel, url: str) -> bool:
    return hmac.compare_digest((channel.url or "").encode(), url.encode())


def _add_channel(entry: ChannelEntry, doing: StepContext) -> None:
    made, _ = channels.add(name=entry.name, kind=entry.kind, url=entry.url, actor=doing.actor)
    _switch(made, entry, doing)


def _change_channel(channel: AlertChannel, entry: ChannelEntry, doing: StepContext) -> None:
    if entry.url and not _leads_to(channel, entry.url):
        channels.change(channel, name=entry.name, url=entry.url, actor=doing.actor)
    _switch(channel, entry, doing)


def _switch(channel: AlertChannel, entry: ChannelEntry, doing: StepContext) -> None:
    if entry.enabled is False:
        channels.disable(channel, actor=doing.actor, now=doing.now)
    elif entry.enabled:
        channels.enable(channel, actor=doing.actor)


def plan_policy(plan: Plan, wanted: Configuration) -> list[Step]:
    """Append what has to be done; returns what would lift the rules of those the file does not name."""
    if wanted.policy is None:
        return []
    apps: dict[str, AppRegistration | None] = {app.name: app for app in AppRegistration.objects.all()}
    apps |= {entry.name: find_app_registration(wanted, entry) for entry in wanted.app_registrations or ()}
    for entry in wanted.policy:
        _rules(plan, entry, apps)
    named = {app.pk for entry in wanted.policy if (app := apps.get(entry.app_registration)) is not None}
    unnamed = [app for app in AppRegistration.objects.exclude(policy=None) if app.pk not in named]
    own = [one for one in unnamed if policy.stored_policy(one).rules.restricts]
    return removals(
        "policy of app registration",
        own,
        lambda app, doing: policy.change(app, Rules(), actor=doing.actor, now=doing.now),
    )


def _rules(plan: Plan, entry: PolicyEntry, apps: dict[str, AppRegistration | None]) -> None:
    name = entry.app_registration
    if name and name not in apps:
        raise WrongEntry(f"There is no app registration “{name}”, in the file or in the portal.", line=entry.line)
    app = apps[name] if name else None
    before = Rules() if name and app is None else policy.stored_policy(app).rules
    changes = tuple(
        (what, as_text(old), as_text(new)) for what, (old, new) in describe.differences(before, entry.rules).items()
    )
    if changes:
        whose = f"of app registration {name}" if name else "of the organisation"
        plan.do(Verb.CHANGE, "policy", whose, changes, entry.line, partial(_put_in_force, entry))


def _put_in_force(entry: PolicyEntry, doing: StepContext) -> None:
    name = entry.app_registration
    app = AppRegistration.objects.get(name=name) if name else None
    policy.change(app, entry.rules, actor=doing.actor, now=doing.now)
