"""An access review from the start to a removed share, reviewed with the keyboard alone."""

from datetime import timedelta

from django.utils import timezone

from connections.models import ReviewItem, Share, User
from connections.services.governance import access_review_schedule
from tests import factories
from tests.browser.browser_users import Come, Start


def test_owners_answer_and_auditors_get_a_report(
    portal: Start, visitor: Come, alice: User, bob: User, carol: User, dave: User
) -> None:
    here = portal()
    kept, ended, forgotten = (
        Share.objects.create(connection=factories.make_connection(owner=bob, name=name), person=dave, created_by=bob)
        for name in ("Calendar", "Invoices", "Tickets")
    )
    admin = visitor(here, "alice")
    admin.follow("Access reviews")
    admin.follow("Start review")
    admin.type_in("Last day", (timezone.now() + timedelta(days=21)).date().isoformat())
    admin.press("Start review")
    admin.sees("The review has started", "Not answered")

    owner = visitor(here, "bob")
    owner.sees("3 shares to confirm or remove")
    owner.follow("Start review", exact=False)
    keys = owner.page.keyboard
    owner.page.get_by_role("group", name="Calendar for Dave Stranger").get_by_label("Confirm").focus()
    keys.press("Space")
    keys.press("Tab")
    keys.type("Month's end")
    keys.press("Tab")
    keys.press("Tab")  # past the link to the next connection
    keys.press("ArrowRight")
    keys.press("Space")
    keys.press("Tab")
    keys.press("Enter")
    owner.sees("Saved: 1 confirmed, 1 removed.")
    decisions = dict(ReviewItem.objects.values_list("connection_name", "decision"))
    assert decisions == {"Calendar": "confirmed", "Invoices": "removed", "Tickets": "open"}

    review = ReviewItem.objects.first().review  # type: ignore[union-attr]
    access_review_schedule.run_due(review.due_at - timedelta(days=1))
    access_review_schedule.run_due(review.due_at)
    states = [Share.objects.get(pk=share.pk).ended_at is None for share in (kept, ended, forgotten)]
    assert states == [True, False, False]

    auditor = visitor(here, "carol")
    auditor.open(f"/reviews/{review.pk}/report/")
    auditor.sees("Closed", "Removed without answer", "Month's end", "The portal closed the access review")
    with auditor.page.expect_download() as download:
        auditor.press("CSV")
    assert "Removed without answer" not in download.value.path().read_text()
    assert download.value.path().read_text().count("\n") == 4
