"""Quiet hours: what is not urgent waits for their end; what is critical, and the inbox, do not.

Prints:

    normal: {'inapp': 'delivered', 'sms': 'deferred'}
    sms waits: quiet_hours, for another 1... minutes
    critical: {'inapp': 'delivered', 'sms': 'delivered'}
"""

import datetime
import tempfile
import time

from dispatcher import NotificationService, Status

CONFIG = {"channels": {"sms": {"provider": "simulated"}}}
now = datetime.datetime.now(datetime.UTC)
an_hour, two_hours = datetime.timedelta(hours=1), datetime.timedelta(hours=2)


def decided(id: str) -> Status:
    """Once nothing is only pending."""
    while "pending" in (status := service.status(id)).outcomes.values():
        time.sleep(0.01)
    return status


with tempfile.TemporaryDirectory() as directory, NotificationService(directory, config=CONFIG, shards=1) as service:
    quiet = {"start": f"{now - an_hour:%H:%M}", "end": f"{now + two_hours:%H:%M}"}
    service.put_user(
        "ada", {"contacts": {"phone": "+33612345678"}, "timezone": "UTC", "preferences": {"quiet_hours": quiet}}
    )

    receipt = service.notify(user_id="ada", title="Your weekly summary", channels=["inapp", "sms"])
    status = decided(receipt.id)
    print("normal:", dict(sorted(status.outcomes.items())))
    for delivery in status.deliveries:
        if delivery.next_attempt_at:
            minutes = (delivery.next_attempt_at / 1000 - time.time()) / 60
            print(f"{delivery.channel} waits: {delivery.reason}, for another {minutes:.0f} minutes")

    receipt = service.notify(
        user_id="ada", title="Your card is blocked", channels=["inapp", "sms"], priority="critical"
    )
    print("critical:", dict(sorted(service.wait(receipt.id, timeout=20).outcomes.items())))
