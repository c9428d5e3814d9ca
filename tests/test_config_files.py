"""Configuration as code: export, plan, apply. It is all or nothing, can be repeated, and exports no secret."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import CommandError, call_command
from django.utils import timezone
from social_django.models import UserSocialAuth

from connections.errors import NotAllowed
from connections.management import config_file
from connections.models import (
    AlertChannel,
    AppCredential,
    AppRegistration,
    AuditEvent,
    Connection,
    ConnectionReference,
    Policy,
    SharedMailbox,
    Team,
    Tenant,
    User,
)
from connections.services.config import plan, registry
from connections.services.config.schema import WrongEntry
from connections.services.governance import policy
from connections.services.people import accounts, service_accounts
from connections.services.policy import rules as policy_rules
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests import full_dataset as worlds
from tests.environment import ROOT
from tests.full_dataset import World

pytestmark = pytest.mark.django_db
NOW = timezone.now()


@pytest.fixture
def world(alice: User, bob: User, carol: User, dave: User, sandbox: Control) -> World:
    """One of everything, with a policy, a service account and a team that follows a group."""
    world = worlds.make({person.username: person for person in (alice, bob, carol, dave)})
    rules = {
        "longest_share_days": 90,
        "capabilities": {"mail.send": "forbidden"},
        "permissions": {"Mail.*": "approval"},
    }
    policy.change(None, policy_rules.from_dict(rules), actor=alice, now=NOW)
    policy.change(world.app, policy_rules.from_dict({"share_with_people": False}, of_app=True), actor=alice, now=NOW)
    if not User.objects.filter(kind=User.Kind.SERVICE).exists():
        service_accounts.create(
            name="Robots", purpose="Invoices", responsible=bob, admin=False, auditor=True, actor=alice, now=NOW
        )
    Team.objects.create(name="Following", entra_group="7a0c7b5e-0000-4000-8000-000000000001")
    return world


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


def exported() -> dict[str, Any]:
    exported: dict[str, Any] = yaml.safe_load(run("export_config"))
    return exported


@pytest.fixture
def apply(tmp_path: Path) -> Any:
    """``apply(values or text, "--plan")`` writes the file and runs the command as alice, without confirmation."""
    path = tmp_path / "portal.yaml"

    def act(content: Any, *options: str) -> str:
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
        return run("apply_config", str(path), "--as", "alice", "--yes", *options)

    return act


def test_no_secret_and_no_person_beyond_user_names_is_exported(world: World) -> None:
    text = run("export_config")
    for secret in worlds.SECRETS:
        assert secret not in text
    assert text.count(world.connection.name) == 1, "a reference names its connection"
    assert "ada@contoso.example" not in text
    assert "dave" in text
    values = yaml.safe_load(text)
    assert values["app_registrations"][0]["credentials"][1]["thumbprint"] == world.certificate.thumbprint
    assert values["alert_channels"][0]["host"] == "192.0.2.1"


def test_applying_an_export_changes_nothing(world: World, apply: Any) -> None:
    before = AuditEvent.objects.count()
    assert apply(run("export_config")).endswith("No changes.\n")
    assert apply(run("export_config"), "--prune").endswith("No changes.\n")
    assert apply(run("export_config"), "--plan").endswith("No changes.\n")
    assert AuditEvent.objects.count() == before


def test_an_empty_portal_becomes_what_was_exported(
    world: World, apply: Any, tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ALERT_PRIVATE_TARGETS = True  # otherwise the channel's address, which does not exist, would be rejected
    monkeypatch.setenv("CHANNEL_URL", worlds.CHANNEL_URL)
    secret = tmp_path / "secret"
    secret.write_text(f"{factories.CLIENT_SECRET}\n")
    values = exported()
    values["app_registrations"][0]["credentials"][0] |= {"secret_file": str(secret)}
    values["alert_channels"][0] |= {"url_env": "CHANNEL_URL"}
    _empty()
    output = apply(values)
    assert "the reference invoices-inbox is left as it is, because bob has no connection" in " ".join(output.split())
    assert "+ tenant Contoso (line" in output
    assert output.endswith("Done.\n")
    assert AppRegistration.objects.get().is_ready, "the secret was tried at Microsoft"
    assert Tenant.objects.get().tid == seed.CONTOSO
    assert AppCredential.objects.get().secret == factories.CLIENT_SECRET
    assert AlertChannel.objects.get().url == worlds.CHANNEL_URL
    again = exported()
    values["app_registrations"][0]["credentials"] = again["app_registrations"][0]["credentials"]
    del values["alert_channels"][0]["url_env"]
    assert again == values | {"references": []}
    applied = AuditEvent.objects.get(action="configuration.applied")
    assert (applied.actor_name, applied.changes) == ("Alice Admin <alice>", {"add": 10, "change": 2})
    for event in AuditEvent.objects.all():
        assert factories.CLIENT_SECRET not in str(event.changes)


def test_an_export_for_a_new_portal_needs_nothing_but_secrets(
    world: World, apply: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ALERT_PRIVATE_TARGETS = True
    bob, dave = world.people["bob"], world.people["dave"]
    UserSocialAuth.objects.create(user=bob, provider="microsoft", uid=f"{seed.CONTOSO}.{factories.ADA_ID}")
    text = run("export_config", "--new-portal")
    names = re.findall(r"^#   (\w+)$", text, re.MULTILINE)
    assert names == ["CONTOSO_CONNECTIONS_TEST_SECRET_SECRET", f"{world.channel.name.upper().replace(' ', '_')}_URL"]
    for secret in worlds.SECRETS:
        assert secret not in text
    _empty()
    ConnectionReference.objects.all().delete()
    User.objects.filter(pk__in=[bob.pk, dave.pk]).delete()
    with pytest.raises(CommandError) as refused:
        apply(text)
    assert [name for name in names if f"The environment variable {name} isn't set" in str(refused.value)] == names
    monkeypatch.setenv(names[0], factories.CLIENT_SECRET)
    monkeypatch.setenv(names[1], worlds.CHANNEL_URL)
    output = apply(text)
    assert "set a password with manage.py changepassword dave" in output
    assert AppRegistration.objects.get().is_ready
    assert AlertChannel.objects.get().url == worlds.CHANNEL_URL
    invited = User.objects.get(username="bob")
    assert (str(invited), invited.email, invited.last_login) == (str(bob), bob.email, None)
    assert not invited.has_usable_password()
    assert not invited.groups.exists()
    logins = list(UserSocialAuth.objects.values_list("user__username", "uid"))
    assert logins == [("bob", f"{seed.CONTOSO}.{factories.ADA_ID}")]
    assert str(User.objects.get(kind=User.Kind.SERVICE).responsible) == "Alice Admin"
    assert AuditEvent.objects.filter(action="account.added", actor__username="alice").count() == 2
    again = apply(text)
    assert again.endswith("No changes.\n")


def _empty() -> None:
    models: tuple[Any, ...] = (Connection, SharedMailbox, Policy, AppRegistration, Tenant, Team, AlertChannel)
    for model in models:
        model.objects.all().delete()
    User.objects.filter(kind=User.Kind.SERVICE).delete()


def test_a_microsoft_account_belongs_to_one_person(world: World, apply: Any) -> None:
    UserSocialAuth.objects.create(
        user=world.people["bob"], provider="microsoft", uid=f"{seed.CONTOSO}.{factories.ADA_ID}"
    )
    account = {"directory": seed.CONTOSO, "object_id": factories.ADA_ID}
    for entry, says in (
        ({"user_name": "mallory", **account}, "already signs in as bob"),
        ({"user_name": "BOB"}, "is taken by bob"),
        ({"user_name": "eve", "object_id": factories.ADA_ID}, "needs both directory and object_id"),
    ):
        with pytest.raises(CommandError, match=says):
            apply({"version": 1, "people": [entry]})
    with pytest.raises(NotAllowed):
        accounts.invite("eve", name="Eve", email="", uid="", actor=world.people["dave"], now=NOW)
    assert not User.objects.filter(username__in=["mallory", "eve"]).exists()


def test_all_problems_of_a_file_are_told_at_once(alice: User, apply: Any) -> None:
    in_the_text = "version: 1\nteams:\n- name: A\n  entra_groups: x\n- members: []\nalert_channels:\n- name: B\n  kind: fax\nnone: 1\n"
    in_the_plan = "version: 1\nteams:\n- name: A\n  members: [x, y]\nservice_accounts:\n- name: R\nalert_channels:\n- name: B\n  kind: chat\n"
    for text, lines in ((in_the_text, [4, 5, 8, 9]), (in_the_plan, [3, 3, 6, 8])):
        with pytest.raises(CommandError) as refused:
            apply(text)
        assert [int(line) for line in re.findall(r"portal.yaml, line (\d+): ", str(refused.value))] == lines


def test_the_commands_load_neither_pages_nor_the_api() -> None:
    """They begin quickly, because a pipeline calls them often."""
    show = (
        "import sys; from django.core import management\n"
        "try: management.execute_from_command_line(['manage.py', 'apply_config', '/nowhere'])\n"
        "except SystemExit: print(sorted(name for name in sys.modules if name.startswith(('connections.views', 'connections.api'))))"
    )
    process = subprocess.run(
        [sys.executable, "-c", show], cwd=ROOT, env={**os.environ, "DJANGO_SETTINGS_MODULE": "portal.settings"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (process.stdout, "can't be read" in process.stderr) == ("[]\n", True), process.stderr


def test_references_are_added_pointed_elsewhere_and_removed(world: World, apply: Any) -> None:
    other = factories.make_connection(owner=world.people["bob"], name="Archive")
    entry = {"name": "archive", "connection": "Archive", "connection_owner": "bob", "team": "Finance"}
    own = {"name": "invoices-inbox", "connection": "Archive", "connection_owner": "bob", "description": "Moved"}
    values = exported() | {"references": [entry, own]}
    assert "+ reference archive" in apply(values)
    added, moved = ConnectionReference.objects.order_by("name")
    assert (added.connection, added.owner.username, str(added.team)) == (other, "alice", "Finance")
    assert (moved.connection, moved.owner.username, moved.description) == (other, "bob", "Moved")
    assert apply(values).endswith("No changes.\n")
    apply(values | {"references": [own]}, "--prune")
    assert factories.reloaded(added).removed_at is not None
    with pytest.raises(CommandError, match="The team “Nobody” is neither"):
        apply(values | {"references": [entry | {"team": "Nobody"}]})


def test_a_plan_shows_everything_and_changes_nothing(world: World, apply: Any) -> None:
    values = exported()
    values["tenants"][0]["name"] = "Contoso Ltd"
    values["app_registrations"][0] |= {"tenant": "Contoso Ltd", "allows": ["delegated"]}
    values["shared_mailboxes"] = [
        {"address": "SUPPORT@Contoso.example", "tenant": "Contoso Ltd", "display_name": "Help"}
    ]
    values["teams"] = [{"name": "Finance", "members": ["bob"]}, {"name": "Sales"}]
    values["policy"]["organisation"]["longest_share_days"] = 30
    before = AuditEvent.objects.count()
    planned = plan.plan(config_file.parse(yaml.safe_dump(values)))
    steps = [(str(step.verb), step.noun, step.name, step.changes) for step in planned.steps]
    assert steps[0] == ("change", "tenant", "Contoso", (("name", "Contoso", "Contoso Ltd"),))
    assert steps[1] == ("change", "app registration", "Contoso Connections", (("allows_app_only", "yes", "no"),))
    assert steps[2][:3] == ("change", "shared mailbox", "support@contoso.example")
    assert steps[3] == ("add", "member", "bob of the team Finance", ())
    assert steps[4] == ("add", "team", "Sales", ())
    assert steps[5][:3] == ("change", "policy", "of the organisation")
    assert set(planned.kept) == {"member dave of the team Finance", "team Following", "team Nobody yet"}
    with pytest.raises(SystemExit, match=r"^2$"):
        apply(values, "--plan")
    assert AuditEvent.objects.count() == before
    assert "To add: 2, change: 4, remove: 0." in apply(values)
    assert apply(values).endswith("No changes.\n")
    assert AppRegistration.objects.get().tenant.name == "Contoso Ltd"


def test_only_prune_removes_and_dependents_go_first(world: World, apply: Any) -> None:
    values = exported() | {"teams": [], "shared_mailboxes": [], "alert_channels": []}
    values["policy"]["app_registrations"] = {}
    assert "Use --prune to remove them" in apply(values)
    assert Team.objects.count() == 3
    world.connection.delete()
    assert "- team Finance" in apply(values, "--prune")
    assert not Team.objects.exists()
    assert not SharedMailbox.objects.exists()
    assert not AlertChannel.objects.exists()
    assert not policy.stored_policy(world.app).rules.restricts
    assert "- tenant Contoso" in apply(
        {"version": 1, "tenants": [], "app_registrations": [], "shared_mailboxes": []}, "--prune"
    )
    assert not Tenant.objects.exists()


def test_sections_missing_from_the_file_are_left_alone(world: World, apply: Any) -> None:
    assert apply({"version": 1, "teams": [{"name": "Sales"}]}, "--prune").count("- ") == 3
    assert Tenant.objects.count() == 1
    assert AppRegistration.objects.count() == 1


def test_a_failure_in_the_middle_leaves_nothing_behind(world: World, apply: Any) -> None:
    values = exported()
    values["teams"].append({"name": "Sales"})
    values["shared_mailboxes"] = []
    before = AuditEvent.objects.count()
    with pytest.raises(CommandError, match=r"still uses support@contoso\.example.*\nNothing was changed"):
        apply(values, "--prune")
    assert not Team.objects.filter(name="Sales").exists()
    assert AuditEvent.objects.count() == before


def test_a_secret_microsoft_refuses_is_reported_with_its_line(world: World, apply: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("NEW_SECRET", "sbx8Q~wrong-one-1234")
    values = exported()
    new = {"kind": "secret", "label": "Next", "secret_env": "NEW_SECRET", "expires_at": "2099-01-01"}
    values["app_registrations"][0]["credentials"].append(new)
    with pytest.raises(CommandError, match=r"line \d+: .*AADSTS7000215") as refused:
        apply(values)
    assert "wrong-one" not in str(refused.value)
    assert AppCredential.objects.count() == 2


def test_a_new_secret_is_tested_and_added_once(world: World, apply: Any, sandbox: Control, monkeypatch: Any) -> None:
    monkeypatch.setenv("NEW_SECRET", sandbox.add_secret(factories.CLIENT_ID)["value"])
    values = exported()
    new = {"kind": "secret", "label": "Next", "secret_env": "NEW_SECRET", "expires_at": "2099-01-01"}
    values["app_registrations"][0]["credentials"].insert(0, new)
    assert "+ credential Next of Contoso Connections" in apply(values)
    assert AppCredential.objects.get(label="Next").verified_at is not None
    assert apply(values, "--prune").endswith("No changes.\n")
    del values["app_registrations"][0]["credentials"][1]
    assert "- credential Test secret" in apply(values, "--prune")
    assert AppCredential.objects.get(label="Test secret").retired_at is not None


def test_a_secret_is_not_added_while_microsoft_is_unreachable_unless_allowed(
    alice: User, sandbox: Control, apply: Any, monkeypatch: Any
) -> None:
    sandbox.weather("unavailable", where="everything")
    monkeypatch.setenv("NEW_SECRET", factories.CLIENT_SECRET)
    secret = {"kind": "secret", "secret_env": "NEW_SECRET", "expires_at": "2099-01-01"}
    app = {"name": "Mail", "tenant": "Contoso", "client_id": factories.CLIENT_ID, "credentials": [secret]}
    tenant = {"name": "Contoso", "environment": "sandbox", "directory_id": seed.CONTOSO}
    values = {"version": 1, "tenants": [tenant], "app_registrations": [app]}
    with pytest.raises(CommandError, match="Nothing was changed"):
        apply(values)
    assert not Tenant.objects.exists()
    apply(values, "--untried")
    assert not AppRegistration.objects.get().is_ready
    assert AppCredential.objects.get().verified_at is None


def test_an_app_without_a_credential_waits_for_one(alice: User, sandbox: Control, apply: Any) -> None:
    app = {"name": "Mail", "tenant": "Contoso", "client_id": factories.CLIENT_ID, "credentials": [{"kind": "secret"}]}
    tenant = {"name": "Contoso", "environment": "sandbox", "directory_id": seed.CONTOSO}
    values = {"version": 1, "tenants": [tenant], "app_registrations": [app]}
    assert "! line 11: Mail has no secret." in apply(values)
    assert AppRegistration.objects.get().verified_at is None
    assert apply(values).endswith("No changes.\n")


def test_tenants_are_added_to_an_app_registration_and_removed_only_by_prune(
    alice: User, sandbox: Control, apply: Any
) -> None:
    fabrikam = factories.make_tenant(name="Fabrikam", directory_id=seed.FABRIKAM, tid=seed.FABRIKAM)
    app = factories.make_app_registration(name="Multi", client_id=seed.MULTI_APP, audience="multi", secret=None)
    entry = {"name": "Multi", "tenant": "Contoso", "client_id": seed.MULTI_APP}
    text = yaml.safe_dump({"version": 1, "app_registrations": [entry | {"other_tenants": ["Fabrikam"]}]})
    for _ in range(2):
        apply(text)
    assert app.consents.filter(tenant=fabrikam).count() == 1
    without = yaml.safe_dump({"version": 1, "app_registrations": [entry | {"other_tenants": []}]})
    apply(without)
    assert app.consents.count() == 2
    apply(without, "--prune")
    assert app.consents.count() == 1


def test_a_change_between_plan_and_apply_stops_it(world: World, alice: User) -> None:
    desired = config_file.parse(yaml.safe_dump({"version": 1, "teams": [{"name": "Sales"}]}))
    seen = plan.plan(desired)
    Team.objects.create(name="Sales")
    with pytest.raises(Exception, match="has changed since this was planned"):
        plan.apply(desired, seen, actor=alice, now=NOW)


@pytest.mark.parametrize("who", ["bob", "carol", "nobody", ""])
def test_only_an_it_admin_applies(world: World, tmp_path: Path, who: str) -> None:
    path = tmp_path / "portal.yaml"
    path.write_text("version: 1\nteams:\n- name: Sales\n")
    with pytest.raises(CommandError, match=r"IT admin|No active person"):
        run("apply_config", str(path), "--as", who, "--yes")
    assert not Team.objects.filter(name="Sales").exists()


@pytest.mark.parametrize(("answer", "happens"), [("yes\n", True), ("y\n", False), ("\n", False)])
def test_it_asks_before_it_acts(world: World, tmp_path: Path, monkeypatch: Any, answer: str, happens: bool) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    path = tmp_path / "portal.yaml"
    path.write_text("version: 1\nteams:\n- name: Sales\n")
    with pytest.raises(CommandError, match="no terminal to confirm"):
        run("apply_config", str(path), "--as", "alice")
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    if happens:
        run("apply_config", str(path), "--as", "alice")
    else:
        with pytest.raises(CommandError, match="Nothing was changed"):
            run("apply_config", str(path), "--as", "alice")
    assert Team.objects.filter(name="Sales").exists() is happens


def test_service_accounts_and_channels_are_changed_and_removed(
    world: World, apply: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ALERT_PRIVATE_TARGETS = True
    monkeypatch.setenv("OTHER_URL", "https://192.0.2.1/another-path")
    values = exported()
    account, channel = values["service_accounts"][0], values["alert_channels"][0]
    name = account["name"]
    account |= {"purpose": "Another one", "responsible": "alice", "roles": ["it_admin"], "enabled": False}
    channel |= {"enabled": False, "url_env": "OTHER_URL"}
    output = apply(values)
    assert "another-path" not in output
    changed = User.objects.get(first_name=name, kind=User.Kind.SERVICE)
    assert (changed.purpose, str(changed.responsible), changed.is_active) == ("Another one", "Alice Admin", False)
    assert [group.name for group in changed.groups.all()] == ["IT admins"]
    saved = AlertChannel.objects.get()
    assert (saved.url, saved.disabled_at is not None) == ("https://192.0.2.1/another-path", True)
    assert apply(values).endswith("No changes.\n")
    values["service_accounts"] = [{"name": "Reports", "responsible": "bob", "purpose": "Reports"}]
    values["teams"] = [{"name": "Finance", "members": ["dave", "service:reports"]}]
    assert "+ member service:reports of the team Finance" in apply(values, "--prune")
    assert User.objects.get(kind=User.Kind.SERVICE).username == "service:reports"
    assert apply(values, "--prune").endswith("No changes.\n")


TENANT = "version: 1\ntenants:\n- name: Contoso\n  environment: sandbox\n  directory_id: contoso.example\n"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("", 1, "empty"),
        ("version: 2\n", 1, "version 1"),
        ("teams: []\n", 1, "is missing version"),
        ("version: 1\nteams: [\n", 3, "isn't valid YAML"),
        ("version: 1\n\tteams: []\n", 2, "isn't valid YAML"),
        ("version: 1\n---\nversion: 1\n", 2, "isn't valid YAML"),
        ("version: 1\nteam: []\n", 2, "Did you mean teams"),
        ("version: 1\nversion: 1\n", 2, "twice"),
        ("version: 1\nteams:\n", 2, "Use \\[\\]"),
        ("version: 1\nteams: Finance\n", 2, "must be a list"),
        ("version: 1\nteams:\n- Finance\n", 3, "mapping"),
        ("version: 1\nteams:\n- members: []\n", 3, "is missing name"),
        ("version: 1\nteams:\n- name: A\n- name: A\n", 4, "twice"),
        ("version: 1\nteams:\n- name: A\n  members: [nobody]\n", 3, "user name “nobody”"),
        ("version: 1\nteams:\n- name: A\n  entra_group: x\n  members: [alice]\n", 3, "are synchronised"),
        ("version: 1\nteams:\n- name: {a: b}\n", 3, "must be text"),
        ("version: 1\nteams:\n- &a\n  name: A\n- *a\n", 3, "Anchors"),
        ("version: 1\nteams:\n- !!python/object:os.system {name: A}\n", 3, "tag"),
        ("version: 1\nteams: " + "[" * 500, 2, "nested"),
        ("version: 1\nteams:\n- name: \"a\\0b\"\n", 3, "NUL"),
        (TENANT.replace("contoso.example", "https://x/"), 5, "directory_id: This is a full address"),
        (TENANT.replace("sandbox", "moon"), 3, "environment “moon” doesn't exist"),
        (TENANT + "- name: Contoso\n  environment: sandbox\n  directory_id: other.example\n", 6, "twice"),
        (TENANT + "app_registrations:\n- name: A\n  tenant: Elsewhere\n  client_id: " + factories.CLIENT_ID, 7, "tenant “Elsewhere” is neither"),
        (TENANT + "app_registrations:\n- name: A\n  tenant: Contoso\n  client_id: x\n", 9, "client_id: This isn't a valid"),
        (TENANT + f"app_registrations:\n- name: A\n  tenant: Contoso\n  client_id: {factories.CLIENT_ID}\n  allows: [all]\n", 10, "isn't a valid connection type"),
        (TENANT + f"app_registrations:\n- name: A\n  tenant: Contoso\n  client_id: {factories.CLIENT_ID}\n  credentials:\n  - kind: secret\n    secret: abc\n", 12, "can't contain"),
        (TENANT + f"app_registrations:\n- name: A\n  tenant: Contoso\n  client_id: {factories.CLIENT_ID}\n  credentials:\n  - kind: secret\n    secret_file: /nowhere\n", 12, "can't be read"),
        (TENANT + f"app_registrations:\n- name: A\n  tenant: Contoso\n  client_id: {factories.CLIENT_ID}\n  credentials:\n  - kind: secret\n    secret_env: NOT_SET_ANYWHERE\n", 12, "isn't set"),
        ("version: 1\nalert_channels:\n- name: A\n  kind: chat\n  host: x\n", 3, "url_file or url_env"),
        ("version: 1\nalert_channels:\n- name: A\n  kind: pigeon\n", 4, "must be webhook or chat"),
        ("version: 1\npolicy:\n  organisation:\n    longest_share_days: 0\n", 4, "longest_share_days"),
        ("version: 1\npolicy:\n  organisation:\n    nonsense: 0\n", 3, "no rule “nonsense”"),
        ("version: 1\npolicy:\n  app_registrations:\n    Nobody's: {}\n", 4, "is neither in the file nor in the portal"),
        ("version: 1\nservice_accounts:\n- name: Robots\n", 3, "responsible"),
        ("version: 1\nservice_accounts:\n- name: Robots\n  roles: [king]\n", 4, "isn't a valid role"),
    ],
)  # fmt: skip
def test_an_invalid_file_is_reported_with_its_line_and_changes_nothing(
    alice: User, sandbox: Control, apply: Any, text: str, line: int, says: str
) -> None:
    with pytest.raises(CommandError, match=says) as refused:
        apply(text)
    assert f", line {line}: " in str(refused.value)
    assert not AuditEvent.objects.filter(action="configuration.applied").exists()
    assert not Tenant.objects.exists()


def test_an_unreadable_file_is_reported(alice: User, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="can't be read"):
        run("apply_config", str(tmp_path / "missing.yaml"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CommandError, match="UTF-8"):
        run("apply_config", str(tmp_path / "binary"))
    with pytest.raises(WrongEntry, match="too large"):
        config_file.parse("#" * 2_000_001)


def test_a_word_that_looks_like_no_stays_a_name(alice: User, apply: Any) -> None:
    apply("version: 1\nteams:\n- name: no\n- name: 2027-01-01\n- name: 0x10\n")
    assert sorted(Team.objects.values_list("name", flat=True)) == ["0x10", "2027-01-01", "no"]
    assert apply(run("export_config")).endswith("No changes.\n")


def test_a_moved_tenant_and_its_replacement_are_distinguished(alice: User, sandbox: Control, apply: Any) -> None:
    factories.make_tenant(name="Main")
    main = {"name": "Main", "environment": "sandbox", "directory_id": seed.FABRIKAM}
    two = {"name": "Old", "environment": "sandbox", "directory_id": factories.DIRECTORY_ID}
    planned = plan.plan(config_file.parse(yaml.safe_dump({"version": 1, "tenants": [two, main]})))
    assert [(step.verb, step.name) for step in planned.steps] == [("change", "Main"), ("add", "Main")]
    apply({"version": 1, "tenants": [two, main]})
    assert Tenant.objects.get(name="Old").directory_id == factories.DIRECTORY_ID
    assert Tenant.objects.get(name="Main").tid == seed.FABRIKAM
    assert registry.find_tenant(config_file.parse(TENANT), "Main", 1).pk
