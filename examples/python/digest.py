"""Five likes within a second are one notification, rendered by a template.

Prints:

    before: deferred (digest)
    Ada's inbox: 5 people like your photo
    Bob, Eve, Joe, Kim and others
"""

import tempfile
import time
from pathlib import Path

from dispatcher import NotificationService

LIKES = {
    "title": "{{ count }} people like your photo",
    "text": "{% for item in items[:4] %}{{ item.payload.by }}{{ ', ' if not loop.last }}{% endfor %} and others",
}

with tempfile.TemporaryDirectory() as directory:
    folder = Path(directory, "templates", "likes")
    folder.mkdir(parents=True)
    for part, text in LIKES.items():
        (folder / part).write_text(text)
    config = {
        "templates": {"directory": str(folder.parent)},
        "categories": {"social": {"channels": ["inapp"]}},
        "digests": {"likes": {"template": "likes", "window": "1s", "categories": ["social"]}},
    }

    with NotificationService(Path(directory, "data"), config=config, shards=1) as service:
        receipts = [
            service.notify(user_id="ada", category="social", title=f"{name} likes your photo", payload={"by": name})
            for name in ("Bob", "Eve", "Joe", "Kim", "Lea")
        ]
        while (delivery := service.status(receipts[0].id).deliveries[0]).outcome == "pending":
            time.sleep(0.01)
        print(f"before: {delivery.outcome} ({delivery.reason})")

        for receipt in receipts:
            service.wait(receipt.id, timeout=20)
        for item in service.inbox("ada"):
            print(f"Ada's inbox: {item.title}\n{item.body}")
