"""Tenants, teams and people."""

from connections.models import AuditEvent, Share, Team, User
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.api.api_client import NOT_FOUND, Program, problem, values, wrong_fields


def test_a_tenant_is_registered_changed_and_removed(alice: User, sandbox: Control) -> None:
    program = Program(alice)
    body = {"name": "Contoso", "environment": "sandbox", "directory_id": seed.CONTOSO.upper()}
    created = program.post("tenants", body)
    assert created.status_code == 201
    assert created.json()["tid"] == seed.CONTOSO
    path = created["Location"].removeprefix("/api/v1/")
    assert program.get(path).json() == created.json()
    changed = program.patch(path, {"name": "Contoso Ltd"}, if_match=created["ETag"])
    assert (changed.json()["name"], changed.json()["directory_id"]) == ("Contoso Ltd", seed.CONTOSO)
    assert program.patch(path, {"directory_id": seed.FABRIKAM}).json()["tid"] == seed.FABRIKAM
    assert program.delete(path, if_match=created["ETag"]).status_code == 412
    assert program.delete(path).status_code == 204
    assert problem(program.get(path)) == NOT_FOUND
    actions = list(AuditEvent.objects.filter(target_type="Tenant").order_by("pk").values_list("action", flat=True))
    assert actions == ["tenant.added", "tenant.changed", "tenant.changed", "tenant.removed"]


def test_an_invalid_tenant_is_refused_with_its_field(alice: User, sandbox: Control) -> None:
    program, body = Program(alice), {"name": "New", "environment": "sandbox", "directory_id": "nobody.example"}
    assert wrong_fields(program.post("tenants", body)) == {"directory_id"}
    assert wrong_fields(program.post("tenants", body | {"directory_id": "me@contoso.com"})) == {"directory_id"}
    assert wrong_fields(program.post("tenants", body | {"environment": "moon"})) == {"environment"}
    factories.make_tenant()
    twice = body | {"directory_id": seed.CONTOSO}
    assert problem(program.post("tenants", twice)) == (409, "already_exists")


def test_a_tenant_that_cannot_be_looked_up_is_looked_up_later(alice: User, sandbox: Control) -> None:
    program, body = Program(alice), {"name": "New", "environment": "sandbox", "directory_id": seed.CONTOSO}
    sandbox.weather("unavailable")
    created = program.post("tenants", body).json()
    assert created["tid"] == ""
    path = f"tenants/{created['id']}/look-up"
    assert program.post(path).status_code == 503
    sandbox.weather("normal")
    assert program.post(path).json()["tid"] == seed.CONTOSO


def test_members_read_names_of_tenants_only(bob: User) -> None:
    tenant = factories.make_tenant()
    for seen in (Program(bob).get(f"tenants/{tenant.pk}").json(), Program(bob).get("tenants").json()["items"][0]):
        assert seen["name"] == "Contoso"
        assert (seen["directory_id"], seen["tid"], seen["created_at"]) == (None, None, None)
    assert Program(bob).get("tenants", q=tenant.tid).json()["items"] == []


def test_tenants_are_found_by_name_directory_and_environment(alice: User) -> None:
    factories.make_tenant()
    factories.make_tenant(name="Fabrikam", environment="global", directory_id="fabrikam.com", tid="")
    program = Program(alice)

    def names(**query: str) -> list[str]:
        return values(program.get("tenants", **query), "name")

    assert names() == ["Contoso", "Fabrikam"]
    assert names(q="fabr") == names(environment="global") == ["Fabrikam"]
    assert names(q="%") == []
    assert wrong_fields(program.get("tenants", q="\x00")) == {"q"}


def test_a_team_is_created_filled_and_removed(alice: User, bob: User) -> None:
    program = Program(alice)
    created = program.post("teams", {"name": "Sales"})
    path = created["Location"].removeprefix("/api/v1/")
    for _ in range(2):
        assert program.send("put", f"{path}/members/{bob.pk}").json()["username"] == "bob"
    assert program.get(path).json()["member_count"] == 1
    assert values(program.get(f"{path}/members"), "id") == [bob.pk]
    for _ in range(2):
        assert program.delete(f"{path}/members/{bob.pk}").status_code == 204
    assert program.get(f"{path}/members").json()["items"] == []
    assert program.patch(path, {"entra_group": "group-1"}).json()["entra_group"] == "group-1"
    assert program.patch(path, {"entra_group": ""}).json() == created.json()
    assert program.delete(path).status_code == 204
    assert AuditEvent.objects.filter(action="team.member_added").count() == 1


def test_removing_a_team_ends_what_was_shared_with_it(alice: User, bob: User) -> None:
    team = Team.objects.create(name="Sales")
    Share.objects.create(connection=factories.make_connection(), team=team, created_by=bob)
    Program(alice).delete(f"teams/{team.pk}")
    assert not Share.objects.active().exists()


def test_two_teams_of_one_name_are_refused(alice: User) -> None:
    Team.objects.create(name="Sales")
    other = Team.objects.create(name="Finance")
    program = Program(alice)
    assert problem(program.post("teams", {"name": "Sales"})) == (409, "already_exists")
    assert problem(program.patch(f"teams/{other.pk}", {"name": "Sales"})) == (409, "already_exists")


def test_a_disabled_account_cannot_join_a_team(alice: User, bob: User) -> None:
    User.objects.filter(pk=bob.pk).update(is_active=False)
    team = Team.objects.create(name="Sales")
    program = Program(alice)
    assert problem(program.send("put", f"teams/{team.pk}/members/{bob.pk}")) == NOT_FOUND
    assert values(program.get("people"), "username") == ["alice"]


def test_people_are_found_by_name(alice: User, bob: User) -> None:
    people = Program(alice).get("people", q="BOB").json()["items"]
    assert people == [{"id": bob.pk, "name": "Bob Member", "username": "bob", "kind": "person"}]
