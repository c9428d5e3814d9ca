"""``python -m portal.demo_seed ORGANISATION SANDBOX_URL`` fills the demo's database. It can be run twice."""

import sys

import django


def main(organisation: str, sandbox_url: str) -> None:
    """Create the people and the app registration from the JSON file ``organisation``, and their history."""
    django.setup()
    from django.core.management import call_command

    from portal import demo_story

    call_command("seed_demo", organisation)
    demo_story.tell(sandbox_url)


if __name__ == "__main__":
    main(*sys.argv[1:])
