"""Send later, call it back in time, and let what comes too late expire.

Prints:

    in an hour: deferred (send_at)
    cancelled: 1 delivery, now cancelled
    cancelled again: already_final
    in a second: delivered
    too late: expired
"""

import tempfile
import time

from dispatcher import AlreadyFinalError, NotificationService

with tempfile.TemporaryDirectory() as directory, NotificationService(directory, shards=1) as service:
    now_ms = int(time.time() * 1000)
    later = service.notify(user_id="ada", title="Your trial ends tomorrow", send_at=now_ms + 3_600_000)
    soon = service.notify(user_id="ada", title="Stand-up in a minute", send_at=now_ms + 1_000)
    late = service.notify(user_id="ada", title="It was last week", expires_at=now_ms - 1_000)

    while (delivery := service.status(later.id).deliveries[0]).outcome == "pending":
        time.sleep(0.01)
    print(f"in an hour: {delivery.outcome} ({delivery.reason})")
    print("cancelled:", service.cancel(later.id), "delivery, now", service.status(later.id).outcomes["inapp"])
    try:
        service.cancel(later.id)
    except AlreadyFinalError as error:
        print("cancelled again:", error.code)

    print("in a second:", service.wait(soon.id, timeout=20).outcomes["inapp"])
    print("too late:", service.wait(late.id, timeout=20).outcomes["inapp"])
