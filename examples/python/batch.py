"""Ten thousand notifications in one call, from a generator; what is wrong with one does not stop the others.

They are sent in frames, several under way at once. After a lost answer the same keys are sent again, so nothing is
sent twice.

Prints:

    accepted 9,998, duplicates 1, rejected 1
    number 500: unknown_category (category): ...
    delivered: 9998, 10 users have 998 or 1000 each
"""

import tempfile
import time
from collections.abc import Iterator

from dispatcher import Notification, NotificationService


def notifications() -> Iterator[Notification]:
    for number in range(10_000):
        yield Notification(
            user_id=f"user-{number % 10}",
            title=f"Invoice {number}",
            category="finance" if number == 500 else "system",  # there is no such category
            idempotency_key=f"invoice-{number - 10 if number == 700 else number}",  # that of number 690
        )


with tempfile.TemporaryDirectory() as directory, NotificationService(directory, shards=2) as service:
    receipt = service.batch_notify(notifications())
    print(f"accepted {receipt.accepted:,}, duplicates {receipt.duplicates}, rejected {len(receipt.rejected)}")
    for rejection in receipt.rejected:
        print(f"number {rejection.index}: {rejection.error.code} ({rejection.error.field}): {rejection.error.message}")

    while (stats := service.metrics())["pending"]:
        time.sleep(0.05)
    counts = {sum(1 for _ in service.inbox(f"user-{number}")) for number in range(10)}
    print(f"delivered: {stats['outcomes']['delivered']}, 10 users have", " or ".join(map(str, sorted(counts))), "each")
