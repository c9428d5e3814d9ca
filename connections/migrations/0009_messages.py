from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("connections", "0008_fewer_indexes"),
    ]

    operations = [
        migrations.AddField(
            model_name="alertchoice",
            name="messages",
            field=models.BooleanField(
                default=True, verbose_name="what I am asked to decide, and answers to what I asked"
            ),
        ),
        migrations.AddField(
            model_name="delivery",
            name="subject",
            field=models.CharField(blank=True, max_length=200),
        ),
        migrations.AlterField(
            model_name="delivery",
            name="event",
            field=models.CharField(
                choices=[
                    ("opened", "Incident opened"),
                    ("reminder", "Reminder"),
                    ("healed", "Incident healed"),
                    ("expiry", "Credential expires soon"),
                    ("message", "Question or answer"),
                    ("test", "Test"),
                ],
                max_length=10,
            ),
        ),
    ]
