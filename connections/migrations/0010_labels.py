"""Plainer labels."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("connections", "0009_account_facts"),
    ]

    operations = [
        migrations.AlterField(
            model_name="accessperiod",
            name="level",
            field=models.CharField(
                blank=True,
                choices=[
                    ("use", "Can use: request tokens and view status"),
                    ("manage", "Can manage: also sign in again and share"),
                ],
                max_length=6,
            ),
        ),
        migrations.AlterField(
            model_name="approval",
            name="authentication_type",
            field=models.CharField(
                choices=[
                    ("authorization_code", "Delegated: a user signs in"),
                    ("client_credentials", "App-only: the application acts without a user"),
                ],
                max_length=20,
            ),
        ),
        migrations.AlterField(
            model_name="approval",
            name="state",
            field=models.CharField(
                choices=[
                    ("waiting", "Awaiting approval"),
                    ("approved", "Approved"),
                    ("declined", "Declined"),
                    ("withdrawn", "Withdrawn"),
                ],
                default="waiting",
                max_length=10,
            ),
        ),
        migrations.AlterField(
            model_name="connection",
            name="authentication_type",
            field=models.CharField(
                choices=[
                    ("authorization_code", "Delegated: a user signs in"),
                    ("client_credentials", "App-only: the application acts without a user"),
                ],
                max_length=20,
            ),
        ),
        migrations.AlterField(
            model_name="connection",
            name="status",
            field=models.CharField(
                choices=[
                    ("pending", "Not signed in yet"),
                    ("active", "Active"),
                    ("reconnect_needed", "Sign-in required"),
                    ("consent_needed", "Consent required"),
                    ("blocked", "Blocked by policy"),
                    ("disabled", "Disabled"),
                ],
                default="pending",
                max_length=20,
            ),
        ),
        migrations.AlterField(
            model_name="consentlink",
            name="state",
            field=models.CharField(
                choices=[
                    ("open", "Awaiting administrator"),
                    ("granted", "Granted, not verified yet"),
                    ("verified", "Granted and verified"),
                    ("declined", "Declined"),
                    ("failed", "Failed"),
                ],
                default="open",
                max_length=10,
            ),
        ),
        migrations.AlterField(
            model_name="consentrequest",
            name="authentication_type",
            field=models.CharField(
                choices=[
                    ("authorization_code", "Delegated: a user signs in"),
                    ("client_credentials", "App-only: the application acts without a user"),
                ],
                max_length=20,
            ),
        ),
        migrations.AlterField(
            model_name="consentrequest",
            name="state",
            field=models.CharField(
                choices=[
                    ("asked", "Awaiting IT admin"),
                    ("approved", "Approved, awaiting consent"),
                    ("granted", "Granted, not verified yet"),
                    ("verified", "Granted and verified"),
                    ("declined", "Declined"),
                    ("failed", "Failed"),
                    ("withdrawn", "Withdrawn"),
                ],
                default="asked",
                max_length=10,
            ),
        ),
        migrations.AlterField(
            model_name="delivery",
            name="event",
            field=models.CharField(
                choices=[
                    ("opened", "Incident opened"),
                    ("reminder", "Reminder"),
                    ("healed", "Incident resolved"),
                    ("expiry", "Credential expires soon"),
                    ("message", "Request or review"),
                    ("test", "Test"),
                ],
                max_length=10,
            ),
        ),
        migrations.AlterField(
            model_name="incident",
            name="kind",
            field=models.CharField(
                choices=[
                    ("app_registration", "App registration rejected"),
                    ("account", "Sign-in required"),
                    ("consent", "Consent required"),
                    ("policy", "Blocked by policy"),
                    ("mailbox", "Shared mailbox not reachable"),
                    ("encryption_key", "Encryption key missing"),
                    ("outage", "Microsoft unreachable"),
                    ("hand_over", "New owner sign-in"),
                    ("altered_secret", "Stored secret moved or altered"),
                    ("leaver", "Owner has left"),
                    ("audit_trail", "Audit trail not trustworthy"),
                    ("portal_sign_in", "Portal sign-in rejected"),
                ],
                max_length=20,
            ),
        ),
        migrations.AlterField(
            model_name="reviewitem",
            name="decided_level",
            field=models.CharField(
                blank=True,
                choices=[
                    ("use", "Can use: request tokens and view status"),
                    ("manage", "Can manage: also sign in again and share"),
                ],
                max_length=6,
            ),
        ),
        migrations.AlterField(
            model_name="reviewitem",
            name="decision",
            field=models.CharField(
                choices=[
                    ("open", "Not answered"),
                    ("confirmed", "Confirmed"),
                    ("removed", "Removed"),
                    ("expired", "Removed without answer"),
                    ("gone", "Removed before the review"),
                ],
                default="open",
                max_length=10,
            ),
        ),
        migrations.AlterField(
            model_name="reviewitem",
            name="level",
            field=models.CharField(
                choices=[
                    ("use", "Can use: request tokens and view status"),
                    ("manage", "Can manage: also sign in again and share"),
                ],
                max_length=6,
            ),
        ),
        migrations.AlterField(
            model_name="share",
            name="level",
            field=models.CharField(
                choices=[
                    ("use", "Can use: request tokens and view status"),
                    ("manage", "Can manage: also sign in again and share"),
                ],
                default="use",
                max_length=6,
            ),
        ),
    ]
