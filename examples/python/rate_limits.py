"""Limits per user and channel: what exceeds one is dropped, sent later, or goes to the inbox instead.

Prints:

    sms: delivered 2, rate_limited 2
    push: delivered 2, to the inbox instead 2
    another user's sms: delivered 1
    why: limit (limit): {'rate': '2/hour', 'remaining': 0, ...}
"""

import tempfile
from collections import Counter

from dispatcher import NotificationService

CONFIG = {
    "rate_limits": {
        "sms": "2/hour",
        "push": {"rate": "2/hour", "overflow": "inapp"},
    },
    "channels": {"sms": {"provider": "simulated"}, "push": {"provider": "simulated"}},
}

with tempfile.TemporaryDirectory() as directory, NotificationService(directory, config=CONFIG, shards=1) as service:

    def outcomes(user: str, channel: str, count: int) -> Counter[tuple[str, str]]:
        found: Counter[tuple[str, str]] = Counter()
        for number in range(count):
            receipt = service.notify(user_id=user, title=f"Message {number}", channels=[channel])
            found.update(service.wait(receipt.id, timeout=20).outcomes.items())
        return found

    sms = outcomes("ada", "sms", 4)
    print(f"sms: delivered {sms['sms', 'delivered']}, rate_limited {sms['sms', 'rate_limited']}")
    push = outcomes("ada", "push", 4)
    print(f"push: delivered {push['push', 'delivered']}, to the inbox instead {push['inapp', 'delivered']}")
    print("another user's sms: delivered", outcomes("bob", "sms", 1)["sms", "delivered"])

    for decision in service.explain(user_id="ada", title="One more", channels=["sms"]):
        if decision.result == "block":
            print(f"why: {decision.step} ({decision.reason}): {decision.detail}")
