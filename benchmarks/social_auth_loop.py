"""social-auth's own refresh, row by row: reads a number from standard input, refreshes that many rows and confirms."""

import os
import sys

import django


def main() -> None:
    """Serve rounds until standard input ends."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.social_auth_settings"
    django.setup()
    from social_django.models import UserSocialAuth
    from social_django.utils import load_strategy

    strategy = load_strategy()
    print("ready", flush=True)
    for line in sys.stdin:
        for row in UserSocialAuth.objects.order_by("pk")[: int(line)].iterator():
            row.refresh_token(strategy)
        print("done", flush=True)


if __name__ == "__main__":
    main()
