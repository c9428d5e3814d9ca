"""Each alert fires when its cause is there and is silent otherwise; rules, dashboard and page name metrics that exist."""

import json
import re
import shutil
import subprocess
import time
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.cache import cache
from django.test import Client
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from connections import counters
from connections.services.operations import clocks, health, metrics, secret_check
from tests import contract, factories
from tests.environment import ROOT

pytestmark = pytest.mark.only_on("sqlite")

RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "portal.json"
PAGE = ROOT / "docs" / "monitoring.md"

_BUCKET = "portal_http_request_duration_seconds_bucket"
# What Prometheus reads once a minute while all is well, in the notation of "promtool test rules", by series.
HEALTHY = {
    'up{job="portal"}': "1x300",
    "portal_last_sweep_timestamp_seconds": "0+60x300",
    'portal_processes{kind="web"}': "1x300",
    'portal_processes{kind="worker"}': "2x300",
    'portal_processes{kind="beat"}': "1x300",
    "portal_ticks_waiting": "3x300",
    "portal_app_registrations_rejected": "0x300",
    'portal_http_requests_total{kind="token",status="200"}': "0+100x300",
    'portal_http_requests_total{kind="token",status="503"}': "0+1x300",
    f'{_BUCKET}{{kind="token",le="2.5"}}': "0+100x300",
    f'{_BUCKET}{{kind="token",le="10.0"}}': "0+101x300",
    f'{_BUCKET}{{kind="token",le="+Inf"}}': "0+101x300",
    'portal_microsoft_requests_total{endpoint="token",status="200"}': "0+100x300",
    'portal_microsoft_requests_total{endpoint="token",status="0"}': "0+1x300",
    'portal_microsoft_requests_total{endpoint="token",status="429"}': "0x300",
    "portal_secrets_unreadable": "0x300",
    "portal_secrets_altered": "0x300",
    'portal_incidents_open{kind="audit_trail"}': "0x300",
    'portal_incidents_open{kind="account"}': "4x300",
    'portal_audit_seals_unpublished{place="file"}': "1x300",
    "portal_audit_stream_lag_seconds": "20x300",
    'portal_credentials_expiring{days="7"}': "0x300",
    'portal_credentials_expiring{days="30"}': "2x300",
    "portal_sign_in_secret_expiry_timestamp_seconds": "8000000x300",
    'portal_clock_ahead_seconds{clock="Microsoft"}': "-2x300",
    'portal_alerts_total{result="failed"}': "0x300",
    "portal_api_calls_not_limited_total": "0x300",
}
# What each alert's cause changes of that.
CAUSES = {
    "PortalDown": {'up{job="portal"}': "0x300"},
    "PortalSweepOverdue": {"portal_last_sweep_timestamp_seconds": "0x300"},
    "PortalProcessMissing": {'portal_processes{kind="beat"}': "0x300"},
    "PortalTicksWait": {"portal_ticks_waiting": "100x300"},
    "PortalAppRegistrationRejected": {"portal_app_registrations_rejected": "1x300"},
    "PortalTokenRequestsFail": {'portal_http_requests_total{kind="token",status="503"}': "0+10x300"},
    "PortalTokenRequestsSlow": {f'{_BUCKET}{{kind="token",le="2.5"}}': "0+80x300"},
    "PortalMicrosoftUnreachable": {'portal_microsoft_requests_total{endpoint="token",status="0"}': "0+50x300"},
    "PortalMicrosoftThrottles": {'portal_microsoft_requests_total{endpoint="token",status="429"}': "0+1x300"},
    "PortalSecretsUnreadable": {"portal_secrets_unreadable": "3x300"},
    "PortalSecretsAltered": {"portal_secrets_altered": "1x300"},
    "PortalAuditTrailBroken": {'portal_incidents_open{kind="audit_trail"}': "1x300"},
    "PortalSealsUnpublished": {'portal_audit_seals_unpublished{place="file"}': "0+1x300"},
    "PortalAuditStreamLags": {"portal_audit_stream_lag_seconds": "0+60x300"},
    "PortalCredentialExpires": {'portal_credentials_expiring{days="7"}': "1x300"},
    "PortalSignInSecretExpires": {"portal_sign_in_secret_expiry_timestamp_seconds": "600000x300"},
    "PortalClockDiffers": {'portal_clock_ahead_seconds{clock="Microsoft"}': "-30x300"},
    "PortalAlertsFail": {'portal_alerts_total{result="failed"}': "0+1x300"},
    "PortalApiNotLimited": {"portal_api_calls_not_limited_total": "0+5x300"},
}


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def group_of_tests(series: dict[str, str], expected: dict[str, int]) -> dict[str, Any]:
    """Return a test of promtool: which alerts fire after four hours, as a number by name."""
    firing = [
        {
            "expr": f'count(ALERTS{{alertstate="firing",alertname="{name}"}})',
            "eval_time": "4h",
            "exp_samples": [{"labels": "{}", "value": number}] if number else [],
        }
        for name, number in expected.items()
    ]
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    return {"interval": "1m", "input_series": inputs, "promql_expr_test": firing}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, which Debian's package prometheus has")
def test_each_alert_fires_at_its_cause_and_only_then(tmp_path: Path) -> None:
    names = [rule["alert"] for rule in rules()]
    assert sorted(names) == sorted(CAUSES)
    tests = [group_of_tests(HEALTHY, dict.fromkeys(names, 0))]
    tests += [group_of_tests({**HEALTHY, **cause}, {name: 1}) for name, cause in CAUSES.items()]
    silent = {name: values for name, values in HEALTHY.items() if "sweep" not in name}
    tests.append(group_of_tests(silent, {"PortalSweepOverdue": 1}))  # Redis is down, so nobody knows of a sweep
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    for command in (["check", "rules", str(RULES)], ["test", "rules", str(file)]):
        process = subprocess.run(["promtool", *command], capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stdout + process.stderr


def test_each_alert_leads_to_its_section() -> None:
    headings = {heading.lower(): heading for heading in re.findall(r"^### (\w+)$", PAGE.read_text(), re.MULTILINE)}
    for rule in rules():
        page, _, anchor = rule["annotations"]["documentation"].partition("#")
        assert page == "docs/monitoring.md"
        assert headings.pop(anchor) == rule["alert"]
    assert not headings


@pytest.mark.parametrize("path", [RULES, DASHBOARD, PAGE], ids=lambda path: path.name)
def test_only_metrics_that_exist_are_named(path: Path) -> None:
    named = {re.sub(r"_bucket$", "", name) for name in re.findall(r"\bportal_[a-z_]+", path.read_text())}
    known = set(contract.metrics())
    assert named <= known
    if path == PAGE:
        assert named == known


def test_the_dashboard_can_be_read() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) == len({panel["title"] for panel in panels})
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    for panel in panels:
        assert all(target["expr"] and target["legendFormat"] for target in panel["targets"])


@pytest.mark.django_db
def test_the_portal_exposes_what_the_rules_and_the_dashboard_ask_for(settings: Any) -> None:
    """Each selector of a rule finds a sample in what /metrics really says, once everything has been counted."""
    settings.LOGIN_MICROSOFT_SECRET_EXPIRES = date(2030, 1, 1)
    settings.AUDIT_STREAM_URL = "https://siem.example.org/in"
    cache.set(health.LAST_SWEEP, time.time())
    factories.make_connection()
    secret_check.count(now=timezone.now())
    counters.add("portal_http_requests_total", "token", "503")
    counters.add("portal_microsoft_requests_total", "token", "429")
    counters.add("portal_microsoft_requests_total", "token", "0")
    counters.add("portal_refreshes_total", "renewed")
    counters.add("portal_alerts_total", "failed")
    for name, label in (("portal_http_request", "token"), ("portal_microsoft_request", "token")):
        counters.add_all(dict.fromkeys(counters.duration_keys(f"{name}_duration_seconds", label, seconds=1.0), 1.0))
    metrics.flush()
    clocks._Due.at = 0.0
    clocks.report("worker")
    families = list(text_string_to_metric_families(Client().get("/metrics").content.decode()))
    samples = [(sample.name, sample.labels) for family in families for sample in family.samples]
    dashboard = [target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]]
    for expression in [*(rule["expr"] for rule in rules()), *dashboard]:
        for name, selector in re.findall(r"\b(portal_[a-z_]+)(?:\{([^}]*)\})?", expression):
            wanted = re.findall(r'(\w+)(=~|=)"([^"]*)"', selector)
            assert any(name == found and _fits(labels, wanted) for found, labels in samples), (name, selector)


def _fits(labels: dict[str, str], wanted: list[tuple[str, str, str]]) -> bool:
    return all(
        re.fullmatch(value if how == "=~" else re.escape(value), labels.get(name, "")) for name, how, value in wanted
    )
