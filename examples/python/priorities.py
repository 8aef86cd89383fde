"""Five notifications in the wrong order: they go out by priority, the oldest first among equals.

They wait until the channel is attached, so that all of them stand in the queue. What waits rises by one priority every
30 seconds (``priorities.aging``), so that nothing starves.

Prints:

    critical: Login from a new device
    high: Payment failed
    normal: Order 17 has shipped
    normal: Order 18 has shipped
    low: Our newsletter
"""

import tempfile
import threading

from dispatcher import Delivery, NotificationService, Priority, Recipient

CONFIG = {"channels": {"pager": {"provider": "attached", "concurrency": 1}}}
done = threading.Semaphore(0)


class Pager:
    name = "pager"

    def supports_recipient(self, recipient: Recipient) -> bool:
        return True

    def send(self, delivery: Delivery) -> None:
        print(f"{delivery.priority}: {delivery.title}")
        done.release()


with tempfile.TemporaryDirectory() as directory, NotificationService(directory, config=CONFIG, shards=1) as service:
    for title, priority in (
        ("Our newsletter", Priority.LOW),
        ("Order 17 has shipped", Priority.NORMAL),
        ("Order 18 has shipped", "normal"),  # a name will do
        ("Payment failed", Priority.HIGH),
        ("Login from a new device", Priority.CRITICAL),
    ):
        service.notify(user_id="ada", title=title, priority=priority, channels=["pager"])

    service.register_channel("pager", Pager())
    for _ in range(5):
        done.acquire(timeout=20)
