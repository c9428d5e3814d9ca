"""The OpenAPI document: django-ninja's, plus what all routes have in common."""

from typing import Any

from ninja import NinjaAPI
from ninja.operation import Operation

from connections.api import idempotency

TAGS = {
    "This key": "Who is calling, and what the key may do.",
    "Tokens": "What automations live on: valid access tokens, or why there is none.",
    "Connections": "Authorised links to Microsoft Graph: listed, made, changed, checked, switched off and removed.",
    "Sharing": "Who else uses or manages a connection.",
    "Handing over": "Another owner for one connection, or for everything somebody owns; and what that means, before.",
    "Mailboxes": "Shared mailboxes, the connections they are attached to, and whether they are really reached.",
    "Incidents": "What is broken, since when, and who must act.",
    "Tenants": "Microsoft Entra directories.",
    "App registrations": "Applications in Entra and their credentials. What is secret is never given back.",
    "Consent": "Requests that an administrator grants consent.",
    "Policy": "What connections may be and do, and what breaks these rules already.",
    "Approvals": "What the policy lets happen only when an IT admin agrees.",
    "Access reviews": "Owners confirm who else uses their connections; what nobody confirms ends.",
    "Teams and people": "Whom connections are shared with.",
    "Audit": "Who did what to what.",
}
PROBLEM = "application/problem+json"
_BY_TYPE: dict[str, Any] = {"integer": 1, "boolean": True}
# Operations that return one changeable object, in addition to those with If-Match.
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
        "description": "Any text of your own, new for every new request. The same request with the same key within 24 "
        "hours is done once, and its answer is sent again.",
        "schema": {"type": "string", "maxLength": idempotency.LONGEST},
        "example": "order-4711-connect",
    },
    "IfMatch": {
        "name": "If-Match",
        "in": "header",
        "required": False,
        "description": "The ETag of what you have read. If it was changed since, nothing is changed now (412).",
        "schema": {"type": "string"},
        "example": '"0f343b0931126a20f133d67c2b018a3b"',
    },
}
_HEADERS = {
    "ETag": ("The state of what can be changed; send it as If-Match with a change.", "string"),
    "Location": ("The address of what was made.", "string"),
    "Idempotency-Replayed": (
        "`true`: this is the answer to an earlier request with the same Idempotency-Key.",
        "string",
    ),
    "Retry-After": ("Seconds after which it makes sense to ask again.", "integer"),
    "X-Request-ID": ("Number of the request, for the portal's operators.", "string"),
    "RateLimit-Limit": ("Requests in the present window.", "integer"),
    "RateLimit-Remaining": ("Requests left in it.", "integer"),
    "RateLimit-Reset": ("Seconds until the next window.", "integer"),
}
_HEADERS_OF_EVERY_RESPONSE = ("X-Request-ID", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")
_DESCRIPTIONS = {
    "200": "Done.",
    "201": "Made.",
    "204": "Gone. There is no body.",
    "400": "A query parameter that this address does not know, or a body that is not JSON.",
    "401": "The API key is missing, wrong, expired, revoked, or used from the wrong network.",
    "403": "The key lacks the scope, or its owner the right.",
    "404": "There is no such thing, or it is not the key's to see.",
    "409": "It cannot be done as things stand; `code` and `detail` say why.",
    "412": "It was changed since it was read (If-Match).",
    "413": "The body is too large.",
    "414": "The query string is too long.",
    "422": "A value cannot be used; `errors` names the fields.",
    "429": "Too many requests.",
    "503": "It cannot be done just now, mostly because Microsoft cannot be asked.",
}


class PortalAPI(NinjaAPI):
    def get_openapi_operation_id(self, operation: Operation) -> str:
        """Return the function's name; generated clients use it as the name of a method."""
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
            "description": "An API key, made in the portal under API keys. It acts as its owner, within its scopes.",
        }
        return document


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    """Add problems, headers and descriptions of statuses."""
    responses = {str(status): response for status, response in operation["responses"].items()}
    # Problems that all routes of this kind can return; any others are declared with the route.
    problems = {"400", "401", "403", "414", "422", "429"} | ({"404"} if "{" in path else set())
    problems |= {"409"} if "{ref}" in path else set()  # several connections have this name
    problems |= {"post": {"409", "413"}, "patch": {"404", "409", "412", "413"}}.get(method, set())
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
    """Return a value that fits the schema, using its fields' examples. Optional fields without one are left out."""
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
