"""The control API: what tests and demos can do with the sandbox, with one function per command.

Call a command with ``POST /_control/api/<verb>`` and a JSON object. The functions in ``control_commands_world`` and
``control_commands_apps`` are also the documentation: their arguments are the fields, and ``/_control/api/`` shows their
docstrings.
"""

import inspect
import json
import types
import typing
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render

from portal.sandbox import control_commands_apps, control_commands_world, fault_injection, request_log
from portal.sandbox.adminconsent import LIES
from portal.sandbox.control_commands import VERBS, Refused
from portal.sandbox.state import world

# Importing these modules registers their commands.
MODULES = (control_commands_world, control_commands_apps)


def _fits(value: Any, annotation: Any) -> bool:
    if annotation is Any:
        return True
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return any(_fits(value, get_arg) for get_arg in typing.get_args(annotation))
    if typing.get_origin(annotation) is list:
        return isinstance(value, list) and all(_fits(item, typing.get_args(annotation)[0]) for item in value)
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return value is None if annotation is type(None) else isinstance(value, annotation)


def _name_of(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) and not typing.get_args(annotation) else str(annotation)


def run(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Check the fields and run the command. Raises Refused with the reason."""
    function = VERBS.get(name)
    if function is None:
        raise Refused(f"Unknown command: {name!r}. Available commands: {', '.join(sorted(VERBS))}.")
    parameters = inspect.signature(function).parameters
    for field, value in fields.items():
        if field not in parameters:
            known = ", ".join(parameters) or "none"
            raise Refused(f"{name} has no field {field!r}. Available fields: {known}.")
        if not _fits(value, parameters[field].annotation):
            raise Refused(f"{field} must be {_name_of(parameters[field].annotation)}.")
    for field, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and field not in fields:
            raise Refused(f"{name} needs the field {field!r}.")
    return function(**fields)


def call(request: HttpRequest, name: str) -> HttpResponse:
    """POST /_control/api/<verb>.

    A JSON body is required, because browsers do not send JSON to another origin without its permission (CORS).
    """
    if request.method != "POST":
        return JsonResponse({"problem": "Send commands with POST and a JSON object."}, status=405)
    if request.content_type != "application/json":
        return JsonResponse({"problem": "Content-Type must be application/json."}, status=415)
    try:
        fields = json.loads(request.body or b"{}")
    except ValueError:
        return JsonResponse({"problem": "The body isn't JSON."}, status=400)
    if not isinstance(fields, dict):
        return JsonResponse({"problem": "The body must be a JSON object."}, status=400)
    try:
        return JsonResponse(run(name, fields))
    except Refused as problem:
        return JsonResponse({"problem": str(problem)}, status=400)


def state(request: HttpRequest) -> HttpResponse:
    """GET /_control/api/state: the whole state, including the secrets of apps and the passwords of people."""
    here = world()
    with here.lock:
        content = here.as_json()
    content |= {"now": here.now(), "public_url": here.public_url, "weather": fault_injection.faults.report()}
    return JsonResponse(content)


def call_log(request: HttpRequest) -> HttpResponse:
    """GET /_control/api/calls?after=NUMBER&limit=COUNT: counters and the newest calls."""
    try:
        after, limit = int(request.GET.get("after", "0")), int(request.GET.get("limit", "200"))
    except ValueError:
        return JsonResponse({"problem": "after and limit must be whole numbers."}, status=400)
    return JsonResponse(request_log.log.snapshot(after, limit))


def documentation(request: HttpRequest) -> HttpResponse:
    """GET /_control/api/: this API's documentation, generated from the functions themselves."""
    verbs = []
    for name, function in sorted(VERBS.items()):
        fields = [
            {
                "name": field,
                "type": _name_of(parameter.annotation),
                "needed": parameter.default is inspect.Parameter.empty,
                "default": json.dumps(parameter.default) if parameter.default is not inspect.Parameter.empty else "",
            }
            for field, parameter in inspect.signature(function).parameters.items()
        ]
        verbs.append({"name": name, "text": inspect.getdoc(function), "fields": fields})
    context = {"verbs": verbs, "kinds": fault_injection.KINDS, "lies": LIES}
    return render(request, "sandbox/api.html", context)
