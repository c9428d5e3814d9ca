"""Strangers cannot make the portal slow for everybody else: documents cost no more than the sign-in page."""

import http.client
import os
from collections.abc import Callable

import pytest

from portal.processes import Process
from portal.sandbox.process import free_port
from tests.faults.test_token_calls import answers

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

REQUESTS = 300


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used, which a busy machine does not change."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    user, system = int(fields[11]), int(fields[12])  # proc(5): utime, stime
    return (user + system) / os.sysconf("SC_CLK_TCK")


def cost(web: Process, port: int, path: str) -> float:
    """Return the processor time of REQUESTS requests, all over one TCP connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    began = cpu_seconds(web.popen.pid)
    for _ in range(REQUESTS):
        connection.request("GET", path, headers={"Host": "localhost"})
        response = connection.getresponse()
        assert response.status == 200, path
        response.read()
    connection.close()
    return cpu_seconds(web.popen.pid) - began


@pytest.mark.parametrize("route", ["openapi.json", "docs"])
def test_documents_cost_no_more_than_the_sign_in_page(start_process: Callable[..., Process], route: str) -> None:
    port = free_port()
    # DEBUG: the page finds its style sheets without collectstatic.
    web = start_process("web", ["portal.server"], BIND=f"127.0.0.1:{port}", DEBUG="on")
    web.wait_until(lambda: answers(port), seconds=60)
    path = f"/api/v1/{route}"
    cost(web, port, path)  # builds the document
    sign_in_page = cost(web, port, "/sign-in/")
    assert sign_in_page > 0
    assert cost(web, port, path) <= sign_in_page
