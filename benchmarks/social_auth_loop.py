"""social-auth's own refresh, row by row."""

import os

import django

from benchmarks import loop


def main() -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.social_auth_settings"
    django.setup()
    from social_django.models import UserSocialAuth
    from social_django.utils import load_strategy

    strategy = load_strategy()

    def refresh(count: int) -> None:
        for row in UserSocialAuth.objects.order_by("pk")[:count].iterator():
            row.refresh_token(strategy)

    loop.serve(refresh)


if __name__ == "__main__":
    main()
