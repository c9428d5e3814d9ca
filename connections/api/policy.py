from datetime import datetime
from typing import Annotated, Any, Literal

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from django.utils import timezone
from ninja import Query, Router, Schema
from pydantic import Field

from connections.access import permissions as access_permissions
from connections.access import querysets, roles
from connections.api import key_scoping
from connections.api.connections import Type
from connections.api.field_types import AsText
from connections.api.hrefs import link_to, page_link
from connections.api.key_scoping import Scope
from connections.api.pagination import MOST
from connections.models import ApiKey, AppRegistration
from connections.services.governance import policy, violations
from connections.services.policy import describe, evaluate
from connections.services.policy import rules as policy_rules

router = Router(tags=["Policy"])
Effects = dict[str, Literal["allowed", "approval", "forbidden"]]
Names = Annotated[list[str] | None, Field(description="The allowed values. Null: all.")]


class RulesOut(Schema):
    """All rules, in the same form as in configuration files."""

    authentication_types: list[Type] | None = Field(description="The allowed connection types. Null: all.")
    environments: Names
    tenants: Names
    capabilities: Effects = Field(description="Capabilities that are forbidden or need approval.")
    permissions: Effects = Field(description="Rules by name or pattern, as in Mail.*. The most specific rule applies.")
    personal_accounts: bool
    other_tenants: bool = Field(description="Whether accounts from other directories are allowed.")
    register_tenants: bool = Field(description="Whether the directory of an account that signs in becomes a tenant.")
    share_with_people: bool
    share_app_only: bool
    longest_share_days: int | None = Field(description="Null: no limit.")
    app_only_second_admin: bool = Field(description="Whether another IT admin must approve app-only connections.")
    credential_renewal: bool = Field(description="Whether the portal may renew secrets and certificates automatically.")
    member_apps: bool = Field(
        description="Whether members can bring their own app registrations. Set in the organisation's policy only."
    )


class SummaryOut(Schema):
    forbidden: list[str]
    approval: list[str] = Field(description="What requires approval.")
    allowed: list[str] = Field(description="Exceptions to the other two.")
    limits: list[str]


class PolicyOut(Schema):
    """The rules of the organisation, or those of one app registration, which can only be stricter."""

    app_registration_id: int | None = Field(description="Null: the organisation's.")
    rules: RulesOut | None = Field(description="Its own rules. Null if the caller can read only the summary.")
    effective: RulesOut | None = Field(description="The effective policy: for each rule, the stricter of the two.")
    changed_at: datetime | None
    changed_by: str
    summary: SummaryOut = Field(description="A summary of the effective policy.")
    link: str


class ConnectionViolation(Schema):
    connection_id: int = Field(validation_alias="connection.pk")
    connection_name: str = Field(validation_alias="connection.name")
    owner: AsText = Field(validation_alias="connection.owner")
    why: list[str] = Field(validation_alias="sentences", description="The rules it violates, in words.")
    effect: Literal["approval", "forbidden"] = Field(description="Whether it is forbidden or needs approval.")
    link: Annotated[str, link_to("connection")] = Field(validation_alias="connection.pk")


class ShareViolation(Schema):
    share_id: int = Field(validation_alias="share.pk")
    connection_id: int = Field(validation_alias="share.connection_id")
    connection_name: str = Field(validation_alias="share.connection.name")
    shared_with: str
    why: list[str] = Field(validation_alias="sentences")
    shorten_to: datetime | None = Field(description="The latest allowed expiration, if the share only lasts too long.")
    link: Annotated[str, link_to("connection")] = Field(validation_alias="share.connection_id")

    @staticmethod
    def resolve_shared_with(violation: violations.ShareViolation) -> str:
        return str(violation.share.person or violation.share.team)


class ViolationsOut(Schema):
    """Policy violations: the first of each kind, ordered by name, and how many there are."""

    connections: list[ConnectionViolation]
    connection_count: int
    shares: list[ShareViolation]
    share_count: int


class ViolationQuery(Schema):
    limit: int = Field(MOST, ge=1, le=MOST, description="Maximum number of items of each kind. The counts include all.")


@router.get("/policy", response=PolicyOut, summary="Get the organisation's policy")
def read_policy(request: HttpRequest) -> Any:
    """IT admins and auditors get all rules, others a summary in words."""
    return _describe_policy(key_scoping.unlimited(request, Scope.ADMIN_READ), None)


@router.get("/app-registrations/{int:app_id}/policy", response=PolicyOut, summary="Get an app registration's policy")
def read_app_policy(request: HttpRequest, app_id: int) -> Any:
    """The app registration's own rules, and the effective policy after combining them with the organisation's rules."""
    key = key_scoping.unlimited(request, Scope.ADMIN_READ)
    return _describe_policy(key, get_object_or_404(querysets.visible_app_registrations(key.owner), pk=app_id))


@router.get("/policy/violations", response=ViolationsOut, summary="List policy violations")
def read_policy_violations(request: HttpRequest, query: Query[ViolationQuery]) -> Any:
    """Existing connections and shares that violate the current rules. For IT admins and auditors."""
    key = key_scoping.unlimited(request, Scope.ADMIN_READ)
    roles.require(
        access_permissions.can_read_policy(key.owner),
        cause="Only IT admins and auditors can view this.",
        action="Ask an IT admin or auditor.",
    )
    return violations.impact(evaluate.load_policies(), now=timezone.now(), keep=query.limit)


def _describe_policy(key: ApiKey, app: AppRegistration | None) -> dict[str, Any]:
    own = policy.stored_policy(app)
    effective = policy_rules.stricter(policy.stored_policy().rules, own.rules) if app is not None else own.rules
    reads_all = access_permissions.can_read_policy(key.owner)
    return {
        "app_registration_id": app.pk if app is not None else None,
        "rules": policy_rules.to_dict(own.rules) if reads_all else None,
        "effective": policy_rules.to_dict(effective) if reads_all else None,
        "changed_at": own.changed_at if reads_all else None,
        "changed_by": own.changed_by if reads_all else "",
        "summary": describe.summary(effective),
        "link": page_link("policy_app", app.pk) if app is not None else page_link("policy"),
    }
