"""Five likes within a second are one notification, rendered by a template.

Prints:

    5 notifications are delivered, as one:
    Ada's inbox: 5 people like your photo
    Bob, Eve, Joe, Kim and others
"""

import tempfile
from collections import Counter
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
        likes = [
            {"user_id": "ada", "category": "social", "title": f"{name} likes your photo", "payload": {"by": name}}
            for name in ("Bob", "Eve", "Joe", "Kim", "Lea")
        ]
        receipt = service.batch_notify(likes)
        outcomes = Counter(service.wait(str(id), timeout=20).outcomes["inapp"] for id in receipt.ids)
        print(f"{outcomes['delivered']} notifications are delivered, as one:")
        for item in service.inbox("ada"):
            print(f"Ada's inbox: {item.title}\n{item.body}")
