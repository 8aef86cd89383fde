"""What fails for good is a dead letter: look at it, mend what was wrong, and replay it.

Prints:

    fax: dead after 3 attempts
    dead letter: Order 17 to ada: max_retries, the line is busy
    replayed 1
    fax: delivered, ['Order 17']
    left: 0
"""

import tempfile
import time

from dispatcher import Delivery, NotificationService, Recipient, SendError

CONFIG = {"channels": {"fax": {"provider": "attached", "retry": {"max_retries": 2, "base": "10ms"}}}}


class Fax:
    name = "fax"

    def __init__(self) -> None:
        self.busy = True
        self.sent: list[str] = []

    def supports_recipient(self, recipient: Recipient) -> bool:
        return True

    def send(self, delivery: Delivery) -> None:
        if self.busy:
            raise SendError("transient", "the line is busy")
        self.sent.append(delivery.title)


fax = Fax()
with tempfile.TemporaryDirectory() as directory, NotificationService(directory, config=CONFIG, shards=1) as service:
    service.register_channel("fax", fax)
    receipt = service.notify(user_id="ada", title="Order 17", channels=["fax"])
    (delivery,) = service.wait(receipt.id, timeout=20).deliveries
    print(f"fax: {delivery.outcome} after {delivery.attempts} attempts")

    while not (letters := list(service.dead_letters(channel="fax"))):  # the list follows a moment later
        time.sleep(0.01)
    for letter in letters:
        print(f"dead letter: {letter.notification['title']} to {letter.user_id}: {letter.reason}, {letter.last_error}")

    fax.busy = False
    print("replayed", service.replay(id=receipt.id))
    print(f"fax: {service.wait(receipt.id, timeout=20).outcomes['fax']}, {fax.sent}")
    while letters := list(service.dead_letters()):
        time.sleep(0.01)
    print("left:", len(letters))
