"""What older rows do not say: who disabled a connection, and that a disabled person counts as having left."""

from typing import Any

from django.db import migrations
from django.utils import timezone


def fill_in(apps: Any, schema_editor: Any) -> None:
    """Read the last ``connection.disabled`` of each disabled connection; disabled people left today at the latest."""
    Connection = apps.get_model("connections", "Connection")
    AuditEvent = apps.get_model("connections", "AuditEvent")
    User = apps.get_model("connections", "User")
    for pk, owner in Connection.objects.filter(status="disabled").values_list("pk", "owner_id"):
        of_it = AuditEvent.objects.filter(target_type="Connection", target_id=str(pk), action="connection.disabled")
        last = of_it.order_by("-pk").values_list("actor_id", flat=True).first()
        if last is not None:
            Connection.objects.filter(pk=pk).update(disabled_by=last, disabled_by_admin=last != owner)
    User.objects.filter(is_active=False, left_at=None).update(
        left_at=timezone.now(), left_how="disabled", left_cause="The account was disabled in this portal."
    )


class Migration(migrations.Migration):
    dependencies = [("connections", "0013_people_and_hand_overs")]

    operations = [migrations.RunPython(fill_in, migrations.RunPython.noop, elidable=True)]
