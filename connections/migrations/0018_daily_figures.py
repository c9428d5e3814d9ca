"""Figures of each day for charts, and each person's time zone."""

from django.db import migrations, models


def pk():
    return models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")


class Migration(migrations.Migration):
    dependencies = [("connections", "0017_growth")]

    operations = [
        migrations.AddField(
            "user", "time_zone", models.CharField(blank=True, db_default="", default="", editable=False, max_length=64)
        ),
        migrations.CreateModel(
            "DailyFigure",
            [
                ("id", pk()),
                ("day", models.DateField()),
                ("name", models.CharField(max_length=80)),
                ("value", models.PositiveBigIntegerField(default=0)),
            ],
            options={
                "ordering": ("day", "name"),
                "constraints": [models.UniqueConstraint(fields=("day", "name"), name="figure_once_per_day")],
            },
        ),
        migrations.CreateModel(
            "DailyTopKey",
            [
                ("id", pk()),
                ("day", models.DateField()),
                ("rank", models.PositiveSmallIntegerField()),
                ("key_name", models.CharField(max_length=120)),
                ("owner_name", models.CharField(max_length=320)),
                ("requests", models.PositiveBigIntegerField(default=0)),
            ],
            options={
                "ordering": ("-day", "rank"),
                "constraints": [models.UniqueConstraint(fields=("day", "rank"), name="top_key_once_per_rank")],
            },
        ),
        migrations.CreateModel(
            "DailyUse",
            [
                ("id", pk()),
                ("day", models.DateField()),
                ("connection_ref", models.BigIntegerField()),
                ("key_ref", models.BigIntegerField()),
                ("key_name", models.CharField(max_length=120)),
                ("owner_name", models.CharField(max_length=320)),
                ("requests", models.PositiveBigIntegerField(default=0)),
            ],
            options={
                "ordering": ("day", "pk"),
                "indexes": [models.Index(fields=["day"], name="use_by_day")],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("connection_ref", "day", "key_ref"), name="use_once_per_day_and_key"
                    )
                ],
            },
        ),
    ]
