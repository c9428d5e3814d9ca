"""The OpenAPI document. It extends the one from django-ninja with everything that all routes have in common."""

from typing import Any

from ninja import NinjaAPI
from ninja.operation import Operation

from connections.api import idempotency

TAGS = {
    "API key": "The calling API key, its owner and its scopes.",
    "Tokens": "Valid access tokens for automations, or the reason why there is none.",
    "Connections": "Connections to Microsoft Graph: create, change, check, disable and remove them.",
    "References": "Stable names for connections, and default connections. A reference gives no access.",
    "Sharing": "Who else can use or manage a connection.",
    "Transfer ownership": "Transfer one connection or all of a person's connections, and preview the impact.",
    "Mailboxes": "Shared mailboxes, their connections, and whether these can access them.",
    "Incidents": "What is broken, since when, and who can fix it.",
    "Tenants": "Microsoft Entra directories.",
    "App registrations": "Applications in Microsoft Entra and their credentials. Secrets are never returned.",
    "Consent": "Requests for admin consent.",
    "Policy": "The rules for connections and shares, and current policy violations.",
    "Approvals": "Requests for actions that the policy allows only with an IT admin's approval.",
    "Change requests": "Changes that another person must approve, because they give access or loosen the policy.",
    "Access reviews": "Owners confirm who can use their connections. Unconfirmed access is removed.",
    "Teams and people": "The teams and people that connections can be shared with.",
    "Audit": "The audit trail: who changed what, and when.",
}
PROBLEM = "application/problem+json"
_BY_TYPE: dict[str, Any] = {"integer": 1, "boolean": True}
# Operations that return one changeable object and have an ETag, in addition to those that support If-Match.
_WITH_ETAG = (
    "look_up_tenant",
    "read_app_registration",
    "read_connection",
    "read_mailbox",
    "read_team",
    "read_tenant",
    "verify_app_registration",
)

_PARAMETERS = {
    "IdempotencyKey": {
        "name": idempotency.HEADER,
        "in": "header",
        "required": False,
        "description": "A unique text for each new request. If you repeat a request with the same key within 24 hours, "
        "it isn't run again. You get the first response.",
        "schema": {"type": "string", "maxLength": idempotency.LONGEST},
        "example": "order-4711-connect",
    },
    "IfMatch": {
        "name": "If-Match",
        "in": "header",
        "required": False,
        "description": "The ETag of the object you read. If the object has changed since, the request fails (412).",
        "schema": {"type": "string"},
        "example": '"0f343b0931126a20f133d67c2b018a3b"',
    },
}
_HEADERS = {
    "ETag": ("The version of the object. Send it as If-Match when you change the object.", "string"),
    "Location": ("The URL of the created object.", "string"),
    "Idempotency-Replayed": (
        "`true`: this is the response to an earlier request with the same Idempotency-Key.",
        "string",
    ),
    "Retry-After": ("Seconds to wait before you try again.", "integer"),
    "X-Request-ID": ("The request ID, for the portal's operators.", "string"),
    "RateLimit-Limit": ("Requests allowed in the current window.", "integer"),
    "RateLimit-Remaining": ("Requests left in the current window.", "integer"),
    "RateLimit-Reset": ("Seconds until the next window.", "integer"),
}
_HEADERS_OF_EVERY_RESPONSE = ("X-Request-ID", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")
_DESCRIPTIONS = {
    "200": "Done.",
    "201": "Created.",
    "204": "Removed. The response has no body.",
    "400": "Unknown query parameter, or the body isn't JSON.",
    "401": "The API key is missing, wrong, expired, revoked, or used from the wrong network.",
    "403": "The key is missing a scope, or its owner doesn't have permission.",
    "404": "The object doesn't exist, or the key has no access to it.",
    "409": "The current state doesn't allow this. `code` and `detail` explain why.",
    "412": "The object has changed since it was read (If-Match).",
    "413": "The body is too large.",
    "414": "The query string is too long.",
    "422": "A value isn't valid. `errors` lists the fields.",
    "429": "Too many requests.",
    "503": "Temporarily unavailable, usually because Microsoft can't be reached.",
}


class PortalAPI(NinjaAPI):
    def get_openapi_operation_id(self, operation: Operation) -> str:
        """Return the function's name, which generated clients use as a method name."""
        return operation.view_func.__name__

    def get_openapi_schema(self, **arguments: Any) -> Any:
        document = super().get_openapi_schema(**arguments)
        schemas = document["components"]["schemas"]
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                _complete(path, method, operation)
                body = operation.get("requestBody", {}).get("content", {}).get("application/json")
                if body is not None:
                    body["example"] = _example(body["schema"], schemas)
        document["tags"] = [{"name": name, "description": text} for name, text in TAGS.items()]
        components = document["components"]
        components["parameters"] = _PARAMETERS
        components["headers"] = {
            name: {"description": text, "schema": {"type": kind}} for name, (text, kind) in _HEADERS.items()
        }
        components["securitySchemes"]["KeyAuth"] |= {
            "bearerFormat": "m365p_…",
            "description": "An API key, which you create in the portal under API keys. It acts as its owner, within its scopes.",
        }
        return document


_BY_METHOD = {"post": {"409", "413"}, "put": {"404", "409", "413"}, "patch": {"404", "409", "412", "413"}}


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    """Complete an operation with its problem responses, headers and descriptions of statuses."""
    responses = {str(status): response for status, response in operation["responses"].items()}
    # Problems that all routes of this kind can return; any others are declared with the route.
    problems = {"400", "401", "403", "414", "422", "429"} | ({"404"} if "{" in path else set())
    problems |= {"409"} if "{ref}" in path else set()  # if several connections have this name
    problems |= {"post": {"409", "413"}, "patch": {"404", "409", "412", "413"}, "put": {"404", "409", "413"}}.get(
        method, set()
    )
    for status in problems:
        schema = {"$ref": "#/components/schemas/Problem"}
        responses[status] = {"content": {"application/json": {"schema": schema}}, "description": ""}
    operation["responses"] = dict(sorted(responses.items()))
    if method == "post":
        _add_parameter(operation, "IdempotencyKey")
    if method in ("patch", "delete") and "412" in responses:
        _add_parameter(operation, "IfMatch")
    has_etag = operation["operationId"] in _WITH_ETAG or "412" in responses
    for status, response in responses.items():
        response["description"] = _DESCRIPTIONS.get(status, response["description"])
        names = [*_HEADERS_OF_EVERY_RESPONSE]
        if status in ("429", "503"):
            names.append("Retry-After")
        if status == "201":
            names += ["Location", "ETag"]
        if status == "200" and has_etag:
            names.append("ETag")
        if method == "post" and status.startswith("2"):
            names.append("Idempotency-Replayed")
        response["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
        if not status.startswith("2") and "application/json" in response.get("content", {}):
            response["content"] = {PROBLEM: response["content"]["application/json"]}


def _add_parameter(operation: dict[str, Any], name: str) -> None:
    reference = {"$ref": f"#/components/parameters/{name}"}
    if reference not in operation["parameters"]:
        operation["parameters"].append(reference)


def _example(schema: dict[str, Any], schemas: dict[str, Any]) -> Any:
    """Return a value that fits the schema, based on the examples of its fields. Optional fields without one are left
    out.
    """
    if "$ref" in schema:
        return _example(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    if schema.get("examples"):
        return schema["examples"][0]
    if "anyOf" in schema:
        return _example(schema["anyOf"][0], schemas)
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("type") == "array":
        return [_example(schema["items"], schemas)]
    if schema.get("type") != "object":
        return schema.get("default", _BY_TYPE.get(schema.get("type", ""), "text"))
    required = schema.get("required", ())
    return {
        name: _example(field, schemas)
        for name, field in schema.get("properties", {}).items()
        if name in required or _has_example(field)
    }


def _has_example(schema: dict[str, Any]) -> bool:
    return bool(schema.get("examples")) or any(_has_example(option) for option in schema.get("anyOf", []))
