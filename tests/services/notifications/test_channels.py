"""Channels, and the addresses that alerts may be sent to."""

import ipaddress
import itertools
import socket
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from connections.errors import AlreadyExists, InvalidInput, NotAllowed
from connections.models import AlertChannel, AuditEvent, Delivery, User
from connections.outbound import safe_http
from connections.services.notifications import alerts, channels
from portal.sandbox.process import free_port
from tests.fake_receivers import web_server
from tests.services.notifications.test_alerts import NOW, make_channel, make_incident

PUBLIC = "https://93.184.216.34/hook/secret-path"


def test_a_webhook_gets_a_secret_that_is_returned_once_and_never_audited(alice: User) -> None:
    channel, secret = channels.add(name="Tickets", kind="webhook", url=PUBLIC, actor=alice)
    assert secret.startswith("whsec_")
    stored = AlertChannel.objects.get(pk=channel.pk)
    assert (stored.url, stored.host, stored.signing_secret) == (PUBLIC, "93.184.216.34", secret)
    event = AuditEvent.objects.get(action="alert_channel.added")
    assert "secret-path" not in str(event.changes)
    assert event.changes == {"kind": "webhook", "host": "93.184.216.34"}


def test_a_chat_has_no_signing_secret(alice: User) -> None:
    channel, secret = channels.add(name="Teams", kind="chat", url=PUBLIC, actor=alice)
    assert secret == ""
    assert AlertChannel.objects.get(pk=channel.pk).signing_secret is None
    with pytest.raises(InvalidInput, match="Only webhooks have a signing secret"):
        channels.replace_secret(channel, actor=alice, now=NOW)


def test_only_it_admins_manage_channels(bob: User, carol: User) -> None:
    channel = make_channel()
    acts: list[Callable[..., Any]] = [
        partial(channels.add, name="Mine", kind="chat", url=PUBLIC), partial(channels.change, channel, name="Mine"),
        partial(channels.disable, channel, now=NOW), partial(channels.enable, channel),
        partial(channels.remove, channel), partial(channels.replace_secret, channel, now=NOW),
    ]  # fmt: skip
    for person, act in itertools.product((bob, carol), acts):
        with pytest.raises(NotAllowed):
            act(actor=person)
    assert not AuditEvent.objects.exists()


def test_names_are_unique(alice: User) -> None:
    channel = make_channel(name="Other")
    make_channel()
    with pytest.raises(AlreadyExists, match="A channel named"):
        channels.add(name="Tickets", kind="chat", url=PUBLIC, actor=alice)
    with pytest.raises(AlreadyExists):
        channels.change(channel, name="Tickets", actor=alice)


def test_a_change_keeps_the_address_unless_there_is_a_new_one(alice: User) -> None:
    channel = make_channel()
    channels.change(channel, name="Renamed", actor=alice)
    assert AlertChannel.objects.get().url == "https://192.0.2.1/hook"
    channels.change(channel, name="Renamed", url="https://8.8.8.8/other-secret", actor=alice)
    stored = AlertChannel.objects.get()
    assert (stored.url, stored.host) == ("https://8.8.8.8/other-secret", "8.8.8.8")
    channels.change(stored, name="Renamed", actor=alice)
    changes = [event.changes for event in AuditEvent.objects.order_by("pk")]
    assert changes == [{"name": ["Tickets", "Renamed"]}, {"host": ["192.0.2.1", "8.8.8.8"], "address": "(set)"}]


def test_disabling_gives_up_waiting_alerts_and_twice_is_harmless(alice: User, bob: User) -> None:
    channel = make_channel()
    alerts.incident_opened(make_incident(assignee=bob), now=NOW)
    for _ in range(2):
        channels.disable(channel, actor=alice, now=NOW)
    row = Delivery.objects.get(channel=channel)
    assert (row.given_up_at, row.next_attempt_at) == (NOW, None)
    for _ in range(2):
        channels.enable(channel, actor=alice)
    assert AlertChannel.objects.get().disabled_at is None
    verbs = list(AuditEvent.objects.order_by("pk").values_list("action", flat=True))
    assert verbs == ["alert_channel.disabled", "alert_channel.enabled"]
    channels.remove(channel, actor=alice)
    channels.remove(AlertChannel(pk=channel.pk, name="Tickets"), actor=alice)
    assert AuditEvent.objects.filter(action="alert_channel.removed").count() == 1


def test_a_new_secret_is_used_with_the_old_one_for_a_day(alice: User) -> None:
    new = channels.replace_secret(make_channel(signing_secret="whsec_b2xk"), actor=alice, now=NOW)
    stored = AlertChannel.objects.get()
    assert channels.signing_secrets(stored, now=NOW) == [new, "whsec_b2xk"]
    assert channels.signing_secrets(stored, now=NOW + timedelta(hours=24)) == [new]
    newest = channels.replace_secret(stored, actor=alice, now=NOW + timedelta(hours=1))
    assert channels.signing_secrets(AlertChannel.objects.get(), now=NOW + timedelta(hours=2)) == [newest, new]
    for event in AuditEvent.objects.all():
        assert "whsec_" not in str(event.changes)


def test_a_private_address_is_refused_at_its_field(alice: User, settings: Any) -> None:
    for url in ("https://127.0.0.1/x", "https://localhost/x", "https://169.254.169.254/latest", "https://[::1]/"):
        with pytest.raises(InvalidInput, match="on a private network") as refused:
            channels.add(name="Inside", kind="chat", url=url, actor=alice)
        assert refused.value.field == "url"
    settings.ALERT_PRIVATE_TARGETS = True
    channel, _ = channels.add(name="Inside", kind="chat", url="http://127.0.0.1:8080/x", actor=alice)
    assert channel.host == "127.0.0.1"


def test_an_unresolvable_name_is_reported(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: Any, **kwargs: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(InvalidInput, match="can't be resolved"):
        channels.add(name="Typo", kind="chat", url="https://hooks.exmaple/x", actor=alice)


INSIDE = """
127.0.0.1 127.255.255.254 0.0.0.0 10.1.2.3 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 100.64.0.1
100.127.255.254 168.63.129.16 192.0.0.192 192.0.2.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.250
240.0.0.1 255.255.255.255 ::1 :: fe80::1 fc00::1 fd12:3456:789a::1 fec0::1 ff02::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1
::ffff:169.254.169.254 ::127.0.0.1 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::a00:1 2002:7f00:1:: 2002:a00:1::
2001:db8::1 2001::1 100::1
"""
OUTSIDE = (
    "93.184.216.34 8.8.8.8 172.32.0.1 100.128.0.1 2606:2800:220:1:248:1893:25c8:1946 ::ffff:8.8.8.8 64:ff9b::808:808"
)


@pytest.mark.parametrize("address", INSIDE.split())
def test_this_address_is_private(address: str) -> None:
    assert not safe_http.is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", OUTSIDE.split())
def test_this_address_is_on_the_internet(address: str) -> None:
    assert safe_http.is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://hooks.example.org/x", "must start with https"),
        ("ftp://hooks.example.org/x", "must start with https"),
        ("hooks.example.org/x", "must start with https"),
        ("javascript:alert(1)", "must start with https"),
        ("https:///x", "no valid host name"),
        ("https://user:pass@hooks.example.org/x", "user name"),
        ("https://user@hooks.example.org/x", "user name"),
        ("https://2130706433/x", "no valid host name"),
        ("https://0x7f.1/x", "no valid host name"),
        ("https://127.1/x", "no valid host name"),
        ("https://0177.0.0.1/x", "no valid host name"),
        ("https://hooks..example.org/x", "no valid host name"),
        ("https://hooks.example.org:99999/x", "isn't a valid web address"),
        ("https://hooks.example.org/x y", "isn't a valid web address"),
        ("https://hooks.example.org/\r\nHost: inside", "isn't a valid web address"),
        ("https://[::1%25eth0]/x", "no valid host name"),
        ("https://[::1/x", "isn't a valid web address"),
        ("https://hooks.example.org/" + "x" * 2000, "isn't a valid web address"),
    ],
)
def test_an_invalid_address_is_refused_with_a_sentence(url: str, sentence: str) -> None:
    with pytest.raises(safe_http.TargetRefused, match=sentence):
        safe_http.parse_target(url)


def test_a_valid_address_is_parsed() -> None:
    target = safe_http.parse_target("https://Bücher.Example.ORG:8443/hö/b?sig=secret%2B#part")
    assert (target.host, target.port) == ("xn--bcher-kva.example.org", 8443)
    assert target.url == "https://xn--bcher-kva.example.org:8443/h%C3%B6/b?sig=secret%2B"
    assert "secret" not in repr(target)


def resolves_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    def answer(host: str, port: int, **kwargs: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", answer)


def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    resolves_to(monkeypatch, "93.184.216.34", "10.0.0.1")
    answer = safe_http.post("https://hooks.example.org/x", b"{}", {})
    assert (answer.status, "on a private network" in answer.failure) == (0, True)


def test_a_name_is_resolved_at_every_use_so_rebinding_it_later_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, alice: User
) -> None:
    resolves_to(monkeypatch, "93.184.216.34")
    channels.add(name="Tickets", kind="chat", url="https://hooks.example.org/x", actor=alice)
    resolves_to(monkeypatch, "169.254.169.254")
    assert "on a private network" in safe_http.post("https://hooks.example.org/x", b"{}", {}).failure


def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    with web_server() as hooks:
        # No name server knows this name, so the request can only arrive at the pinned address.
        resolves_to(monkeypatch, "127.0.0.1")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        answer = safe_http.post(f"http://pinned.invalid:{hooks.port}/x", b"{}", {"A": "b"}, allow_private=True)
        assert answer.accepted
        assert hooks.requests[0].headers["host"] == f"pinned.invalid:{hooks.port}"
        assert hooks.requests[0].headers["a"] == "b"


def test_a_redirect_is_not_followed() -> None:
    with web_server() as hooks:
        hooks.status, hooks.headers = 302, {"Location": f"http://127.0.0.1:{hooks.port}/elsewhere"}
        answer = safe_http.post(hooks.url, b"{}", {}, allow_private=True)
        assert (answer.accepted, len(hooks.requests)) == (False, 1)
        assert "redirect (302)" in answer.problem


def test_an_endless_answer_is_cut_off() -> None:
    with web_server() as hooks:
        hooks.status, hooks.answer = 200, b"x" * 5_000_000
        assert safe_http.post(hooks.url, b"{}", {}, allow_private=True).accepted


def test_a_refused_connection_is_reported() -> None:
    answer = safe_http.post(f"http://127.0.0.1:{free_port()}/x", b"{}", {}, allow_private=True)
    assert answer == safe_http.PostResult(0, "The receiver refused the connection.")


def test_a_silent_server_times_out() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(1)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        answer = safe_http.post(url, b"{}", {}, allow_private=True, timeout=0.3)
    assert answer == safe_http.PostResult(0, "The receiver didn't respond in time.")


def test_a_server_without_tls_gets_nothing() -> None:
    with web_server() as hooks:
        answer = safe_http.post(hooks.url.replace("http:", "https:"), b"{}", {}, allow_private=True)
    assert (answer.status, answer.failure) == (0, "The encrypted connection failed.")
